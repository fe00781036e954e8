"""``python -m vlmdet_cli``: the same as the command ``vlmdet``."""

from vlmdet_cli.cli import main

if __name__ == "__main__":
    main()
