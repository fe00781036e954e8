"""Run as a program: ``swift infer`` several times in one process, which imports the stack once.

Reads a list of argument lists from stdin; each names its own ``--result_path``.
"""

import json
import sys


def main() -> None:
    from swift.pipelines import infer_main

    for arguments in json.load(sys.stdin):
        infer_main(arguments)


if __name__ == "__main__":
    main()
