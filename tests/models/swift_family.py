"""Run as a program: what ms-swift knows of a family, as JSON, written to the file that is named.

Reads ``{"template": …, "model_type": …, "pictures": [{"size": [w, h], "max_pixels": n or null, "seed": n}, …]}`` from
stdin. Writes the template's parts and, for each picture of noise, the size and the hash of its pixels as swift trains
on it.
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


def trained(picture: dict[str, Any], patch_side: int) -> list[Any]:
    from qwen_vl_utils import fetch_image
    from swift.template.vision_utils import rescale_image

    image = noise(picture["size"], picture["seed"])
    image = fetch_image({"image": rescale_image(image, picture["max_pixels"])}, image_patch_size=patch_side)
    return [*image.size, hashlib.sha256(image.tobytes()).hexdigest()]


def main(output: str) -> None:
    from swift.model.register import MODEL_MAPPING
    from swift.template.register import TEMPLATE_MAPPING

    request = json.load(sys.stdin)
    meta = TEMPLATE_MAPPING[request["template"]]
    assert request["model_type"] in MODEL_MAPPING
    patch_side = 16 if meta.template_cls.version == "v3" else 14  # of the published models
    known = {
        "system": meta.default_system,
        "parts": ["".join(part) for part in (meta.system_prefix, meta.prompt, meta.suffix)],
        "stop": meta.stop_words,
        "image": "".join(meta.template_cls.placeholder_tokens[:1]),
        "pictures": [trained(picture, patch_side) for picture in request["pictures"]],
    }
    Path(output).write_text(json.dumps(known))


if __name__ == "__main__":
    main(sys.argv[1])
