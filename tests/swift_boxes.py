"""Run as a program: what ms-swift's own templates write for boxes, as JSON.

Reads rows of [[width, height], [[label, box]]]. Uses the templates' own
scaling and writing without a model: those parts of them ask for nothing else.
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(output: str) -> None:
    from PIL import Image
    from qwen_vl_utils import fetch_image
    from swift.template.template_inputs import StdTemplateInputs
    from swift.template.templates import internvl, microsoft, qwen

    def template(kind: Any, **values: Any) -> Any:
        made = kind.__new__(kind)
        for name, value in values.items():
            setattr(made, name, value)
        return made

    templates = {
        "qwen2_vl": template(qwen.Qwen2VLTemplate, bbox_format="legacy"),
        "qwen2_5_vl": template(qwen.Qwen2_5VLTemplate, bbox_format="new"),
        "qwen3_vl": template(qwen.Qwen3VLTemplate, bbox_format="new"),
        "internvl": template(internvl.Internvl2Template),
        "florence2": template(microsoft.FlorenceTemplate),
    }
    out = []
    for (width, height), objects in json.load(sys.stdin):
        image = Image.new("RGB", (width, height))
        texts: dict[str, list[list[str]]] = {}
        for name, one in templates.items():
            boxes = [list(box) for _, box in objects]
            shown = fetch_image({"image": image}) if name == "qwen2_5_vl" else image
            inputs = StdTemplateInputs(
                messages=[], images=[shown], objects={"bbox": boxes, "width": [width], "height": [height]}
            )
            one.normalize_bbox(inputs)
            texts[name] = [
                [
                    "".join(one.replace_ref(label, number, inputs)),
                    "".join(one.replace_bbox(boxes[number], number, inputs)),
                ]
                for number, (label, _) in enumerate(objects)
            ]
        out.append(texts)
    Path(output).write_text(json.dumps(out))


if __name__ == "__main__":
    main(sys.argv[1])
