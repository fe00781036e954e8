"""train, merge, runs and experiments."""
