"""What train and eval share: the checkpoint, the prompt renderer and the collator."""
