"""A server that answers in place of this process: how it is asked, started and checked."""
