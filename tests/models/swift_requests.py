"""Run as a program: rows and requests of families beside those of ms-swift's own templates, as JSON.

Reads ``{name: {"family": …, "model": folder, "max_pixels": [limit or null, …], "rows": [{"question", "answer",
"system" or null, "size": [w, h], "limit": index, "seed": n}, …]}, …}`` from stdin. Writes to the named file, for each
name and row, what the model is fed by either side: for each tensor its shape and the hash of its bytes; and the number
of tokens of the training row by ``prompts.lengths``. Both sides get the same picture of noise.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.models.swift_family import noise
from vlmdet_cli.models import registry
from vlmdet_cli.models.family import Family
from vlmdet_cli.prompts.lengths import token_counter

OF_TRAINING = {"labels", "loss_scale", "length", "attention_mask"}  # not of the model's input, or made by the collator


def summary(values: Any) -> list[Any]:
    """Shape and hash of a tensor or a list of numbers, without leading axes of one."""
    import numpy as np

    array = np.asarray(values)
    array = array.astype(np.int64) if array.dtype.kind in "iub" else array.astype(np.float32)
    while array.ndim > 1 and array.shape[0] == 1:
        array = array[0]
    return [list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]


def fed(encoded: Any) -> dict[str, Any]:
    return {
        name: summary(values)
        for name, values in encoded.items()
        if name not in OF_TRAINING and values is not None and not name.startswith("_")
    }


class SwiftSide:
    """ms-swift's templates of a model, one for each pixel limit."""

    def __init__(self, family: Family, model: str, limits: list[int | None]) -> None:
        from swift.model import get_processor
        from swift.template import get_template

        flags = family.swift_flags()
        processor = get_processor(model, model_type=flags["model_type"])
        self.templates = [
            get_template(processor, template_type=flags["template"], max_pixels=limit) for limit in limits
        ]

    def encoded(self, row: dict[str, Any], image: Any, mode: str) -> Any:
        template = self.templates[row["limit"]]
        template.set_mode(mode)
        system = [] if row["system"] is None else [{"role": "system", "content": row["system"]}]
        messages = [*system, {"role": "user", "content": row["question"]}]
        if mode == "train":
            messages.append({"role": "assistant", "content": row["answer"]})
        return template.encode({"messages": messages, "images": [image]})


def encoded(job: dict[str, Any]) -> list[dict[str, Any]]:
    from transformers import AutoProcessor

    model, limits = job["model"], job["max_pixels"]
    family = registry.get(job["family"]).configured(Path(model))
    swift, processor = SwiftSide(family, model, limits), AutoProcessor.from_pretrained(model)
    out: list[dict[str, Any]] = []
    for row in job["rows"]:
        image, limit = noise(row["size"], row["seed"]), limits[row["limit"]]
        sized, system = family.resize(image, limit), row["system"]
        texts = {
            "request": family.request_text(row["question"], system),
            "row": family.row_text(row["question"], row["answer"], system),
        }
        ours = {name: family.inputs(processor, [text], [sized]) for name, text in texts.items()}
        trained = swift.encoded(row, image, "train")
        counter = token_counter(family, model, limit, system)
        out.append(
            {
                "request": [fed(ours["request"]), fed(swift.encoded(row, image, "transformers"))],
                "row": [fed(ours["row"]), fed(trained)],
                "tokens": [
                    counter.row(row["question"], row["answer"], tuple(row["size"])),
                    len(trained["input_ids"]),
                ],
                "exact": counter.exact,
            }
        )
    return out


def main(output: str) -> None:
    jobs = json.load(sys.stdin)
    Path(output).write_text(json.dumps({name: encoded(job) for name, job in jobs.items()}))


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    main(sys.argv[1])
