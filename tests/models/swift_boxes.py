"""Run as a program: what ms-swift's own templates make of rows in ``objects`` form, as JSON.

Reads a list of ``{"size": [width, height], "max_pixels": number or null, "rows": {dialect: [row, …]}}`` from stdin and
writes, for each, ``{dialect: [[text of each message], …]}``. The scaling, splitting and writing are the templates' own;
they run without a model, for which those parts do not ask. Rows have no ``<image>``: it would ask for a processor.
"""

import json
import sys
from pathlib import Path
from typing import Any

END = "\x00"  # between messages


def templates() -> dict[str, Any]:
    from swift.template import Template
    from swift.template.templates import internvl, microsoft, qwen

    def template(kind: Any, **values: Any) -> Any:
        instance = kind.__new__(kind)
        for name, value in {"task_type": "causal_lm", "template_backend": "swift", **values}.items():
            setattr(instance, name, value)
        return instance

    return {
        "qwen2_vl": template(qwen.Qwen2VLTemplate, bbox_format="legacy"),
        "qwen2_5_vl": template(qwen.Qwen2_5VLTemplate, bbox_format="new"),
        "qwen3_vl": template(qwen.Qwen3VLTemplate, bbox_format="new"),
        "internvl": template(internvl.Internvl2Template),
        "florence2": template(microsoft.FlorenceTemplate),
        "swift": template(Template),
    }


def texts(template: Any, row: dict[str, Any], size: tuple[int, int], shown: Any) -> list[str]:
    """The texts of a row's messages; ``shown`` is its picture as the template leaves it."""
    from swift.dataset.preprocessor import RowPreprocessor
    from swift.template.template_inputs import StdTemplateInputs

    RowPreprocessor._check_objects(row)
    inputs = StdTemplateInputs(messages=[], images=[shown], objects=row["objects"])
    inputs.objects.update(width=[size[0]], height=[size[1]])
    contexts = [part for message in row["messages"] for part in (message["content"], END)]
    contexts, scales = template._split_special_tokens(contexts, [1.0] * len(contexts))
    return "".join(template._pre_tokenize(contexts, scales, inputs)[0]).split(END)[:-1]


def main(output: str) -> None:
    from PIL import Image
    from qwen_vl_utils import fetch_image
    from swift.template.vision_utils import rescale_image

    known, out = templates(), []
    for scene in json.load(sys.stdin):
        image, of_dialects = Image.new("L", scene["size"]), {}
        for name, rows in scene["rows"].items():
            shrink = name == "qwen2_5_vl"  # the others' numbers do not depend on it
            shown = fetch_image({"image": rescale_image(image, scene["max_pixels"])}) if shrink else image
            of_dialects[name] = [texts(known[name], row, scene["size"], shown) for row in rows]
        out.append(of_dialects)
    Path(output).write_text(json.dumps(out))


if __name__ == "__main__":
    main(sys.argv[1])
