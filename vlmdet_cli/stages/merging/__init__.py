"""merge: adapters and their base become one model, which proves itself."""
