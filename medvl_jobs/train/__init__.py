"""train: prepared dataset in, LoRA adapter out."""
