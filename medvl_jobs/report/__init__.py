"""report: the predictions of base, tuned and controls in, a comparison that can be defended out."""
