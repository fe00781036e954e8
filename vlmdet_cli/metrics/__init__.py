"""Detection measures: pure functions on arrays and records. No files, no printing, no project."""
