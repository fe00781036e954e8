"""experiment: variants of a project as runs, searches, and what they tell."""
