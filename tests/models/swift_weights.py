"""Run as a program: what ms-swift's own template makes of rows under our loss scale, as JSON.

Reads ``{name: {"model": folder, "model_type": …, "template": …, "settings": {…}, "answers": [text, …]}, …}`` from
stdin. Writes to the named file, for each name and answer: the tokens of the answer as ``[text, weight]``, whether all
token ids are those without weights, and the ids that are not in the loss although they are the answer's.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from vlmdet_cli.training import loss


def encoded(job: dict[str, Any]) -> list[dict[str, Any]]:
    from swift.model import get_processor
    from swift.template import get_template

    os.environ[loss.ENVIRONMENT] = json.dumps(job["settings"])
    loss.register()
    processor = get_processor(job["model"], model_type=job["model_type"])
    plain, weighted = (
        get_template(processor, template_type=job["template"], loss_scale=scale) for scale in ("default", loss.NAME)
    )
    for template in (plain, weighted):
        template.set_mode("train")
    return [compared(plain, weighted, answer) for answer in job["answers"]]


def compared(plain: Any, weighted: Any, answer: str) -> dict[str, Any]:
    def row() -> dict[str, Any]:
        messages = [{"role": "user", "content": "<image>Boxes"}, {"role": "assistant", "content": answer}]
        return {"messages": messages, "images": [Image.new("RGB", (64, 48))]}

    before, after = plain.encode(row()), weighted.encode(row())
    ids, labels = list(after["input_ids"]), list(after["labels"])
    scales = list(after.get("loss_scale") or [float(label != -100) for label in labels])
    answered = [label != -100 for label in before["labels"]]
    texts = [weighted.tokenizer.decode([token], skip_special_tokens=False) for token in ids]
    return {
        "same": ids == list(before["input_ids"]),
        "weights": [(text, scale) for text, scale, is_answer in zip(texts, scales, answered, strict=True) if is_answer],
        "others": sorted({scale for scale, is_answer in zip(scales, answered, strict=True) if not is_answer}),
        "without_loss": [
            text for text, label, is_answer in zip(texts, labels, answered, strict=True) if is_answer and label == -100
        ],
    }


def main(output: str) -> None:
    jobs = json.load(sys.stdin)
    Path(output).write_text(json.dumps({name: encoded(job) for name, job in jobs.items()}))


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    main(sys.argv[1])
