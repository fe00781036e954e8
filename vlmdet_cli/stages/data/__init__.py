"""From data to rows: prepare, augment, and what looks at the data."""
