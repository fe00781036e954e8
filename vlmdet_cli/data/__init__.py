"""A data set as columns, its subset, its pictures on disk, and the ground truth."""
