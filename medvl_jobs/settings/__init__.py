"""Settings of a run, and the keys that follow from them. The only reader of the environment."""
