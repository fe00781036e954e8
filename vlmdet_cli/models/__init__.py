"""What is known of model families: chat form, picture sizes, tokens, dialects."""
