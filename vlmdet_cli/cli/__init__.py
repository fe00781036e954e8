"""The command line."""

from vlmdet_cli.cli.app import app, main

__all__ = ["app", "main"]
