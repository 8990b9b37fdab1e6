"""The dataset check: what a person should see of a dataset before anybody trains on it."""
