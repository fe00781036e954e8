"""Run as a program: ms-swift's own argument parser on argument lists of ``swift sft``, without loading a model.

Reads a JSON list of argument lists from stdin, and writes what is left of each, and some of its values, to the named
file. An argument that is no flag of swift's, or of another type, ends the program.
"""

import argparse
import json
import sys
from pathlib import Path

NAMES = ("model", "per_device_train_batch_size", "gradient_accumulation_steps", "lora_rank", "use_liger_kernel",
         "max_length", "freeze_vit")  # fmt: skip


def main(output: str) -> None:
    from swift.arguments import SftArguments
    from transformers import HfArgumentParser

    parser, out = HfArgumentParser([SftArguments]), []
    for words in json.load(sys.stdin):
        namespace, rest = argparse.ArgumentParser.parse_known_args(parser, words)
        out.append({"rest": rest, **{name: getattr(namespace, name) for name in NAMES}})
    Path(output).write_text(json.dumps(out))


if __name__ == "__main__":
    main(sys.argv[1])
