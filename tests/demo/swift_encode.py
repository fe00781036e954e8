"""Run as a program: what ms-swift's own template makes of rows, as JSON. Rows come on stdin with absolute paths.

For each row: token ids of its text, of the same boxes in swift's ``objects`` form, of its prompt alone, and the
picture's patches: their number, and every hundredth value of them.
"""

import json
import runpy
import sys
from pathlib import Path
from typing import Any


def main(model: str) -> None:
    from swift.model import get_processor
    from swift.template import get_template

    runpy.run_path(str(Path(model).parent / "plugin.py"))
    processor = get_processor(model, model_type="qwen2_vl")
    template = get_template(processor, template_type="vlmdet_demo", max_length=2048, max_pixels=168 * 168)

    def encode(row: dict[str, Any], mode: str) -> Any:
        template.set_mode(mode)
        return template.encode(row)

    out = []
    for row in json.load(sys.stdin):
        plain = {"messages": row["messages"], "images": row["images"]}
        trained = encode(plain, "train")
        placed = [row["messages"][0], {"role": "assistant", "content": row["placeholders"]}]
        objects = encode({"messages": placed, "images": row["images"], "objects": row["objects"]}, "train")
        asked = encode({"messages": row["messages"][:1], "images": row["images"]}, "transformers")
        out.append(
            {
                "ids": list(trained["input_ids"]),
                "labels": [label for label in trained["labels"] if label != -100],
                "objects": list(objects["input_ids"]),
                "prompt": list(asked["input_ids"]),
                "patches": len(trained["pixel_values"]),
                "pixels": trained["pixel_values"].flatten()[::100].tolist(),
            }
        )
    Path(sys.argv[2]).write_text(json.dumps(out))


if __name__ == "__main__":
    main(sys.argv[1])
