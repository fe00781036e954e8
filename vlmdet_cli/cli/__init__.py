"""The command line."""

from vlmdet_cli.cli.command_line import app, main

__all__ = ["app", "main"]
