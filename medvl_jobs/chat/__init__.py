"""The page on which base and tuned answer side by side."""
