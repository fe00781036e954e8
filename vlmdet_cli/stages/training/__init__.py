"""train, and the runs that it makes."""
