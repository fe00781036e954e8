"""The command ``vlmdet``, also as ``python -m vlmdet_cli``.

Processes that share work begin by importing this module again: it imports nothing by itself.
"""


def main() -> None:
    """Run the command line."""
    from vlmdet_cli.cli import main as run

    run()


if __name__ == "__main__":
    main()
