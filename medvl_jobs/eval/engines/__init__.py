"""Engines: things that turn images and a question into answers."""
