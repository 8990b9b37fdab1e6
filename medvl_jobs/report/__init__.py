"""report: two sets of predictions in, a comparison that can be defended out."""
