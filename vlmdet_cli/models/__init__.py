"""What is known of model families: their dialects, and how they are asked."""
