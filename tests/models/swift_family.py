"""Run as a program: what ms-swift knows of families, as JSON, written to the file that is named.

Reads ``{name: {"template": …, "model_type": …, "pictures": [{"size": [w, h], "max_pixels": n or null, "seed": n},
…]}, …}`` from stdin. Writes, for each name, the template's parts and, for each picture of noise, the size and the hash
of its pixels as swift hands it to the model's processor in training.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any


def noise(size: tuple[int, int], seed: int) -> Any:
    import numpy as np
    from PIL import Image

    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(values)


def trained(picture: dict[str, Any], template: Any) -> list[Any]:
    from qwen_vl_utils import fetch_image
    from swift.template.templates.qwen import Qwen2VLTemplate
    from swift.template.vision_utils import rescale_image

    image = rescale_image(noise(picture["size"], picture["seed"]), picture["max_pixels"])
    if issubclass(template, Qwen2VLTemplate):  # other templates leave the rest to the processor
        patch_side = 16 if template.version == "v3" else 14  # of the published models
        image = fetch_image({"image": image}, image_patch_size=patch_side)
    return [*image.size, hashlib.sha256(image.tobytes()).hexdigest()]


def known(request: dict[str, Any]) -> dict[str, Any]:
    from swift.model.register import MODEL_MAPPING
    from swift.template.register import TEMPLATE_MAPPING

    meta = TEMPLATE_MAPPING[request["template"]]
    assert request["model_type"] in MODEL_MAPPING
    return {
        "system": meta.default_system,
        "parts": ["".join(part or ()) for part in (meta.system_prefix, meta.prompt, meta.suffix)],
        "stop": meta.stop_words,
        "image": "".join(meta.template_cls.placeholder_tokens[:1]),
        "pictures": [trained(picture, meta.template_cls) for picture in request["pictures"]],
    }


def main(output: str) -> None:
    requests = json.load(sys.stdin)
    Path(output).write_text(json.dumps({name: known(request) for name, request in requests.items()}))


if __name__ == "__main__":
    main(sys.argv[1])
