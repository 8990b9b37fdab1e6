"""eval: the validation set through base or tuned model; predictions and scores out."""
