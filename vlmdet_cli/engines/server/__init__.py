"""The engine ``server``: any OpenAI-compatible servers."""
