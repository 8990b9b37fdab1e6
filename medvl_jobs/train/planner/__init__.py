"""What a training will need: memory, time and money, by arithmetic alone. No torch, no GPU, no weights."""
