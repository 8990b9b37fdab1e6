"""A page on which two models answer side by side: the base, and the same one with the adapter."""
