"""LLaMA-Factory's scores as a module for Hugging Face's `evaluate`, which loads this folder by its path."""
