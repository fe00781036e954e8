"""Qwen3-VL: boxes in thousandths, as JSON; larger picture tokens, and no system prompt of its own."""

import re
from collections.abc import Mapping
from typing import ClassVar

from vlmdet_cli.models.qwen_vl import JSON_BOXES, LEGACY_BOXES, QwenVLFamily


class Qwen3VLFamily(QwenVLFamily):
    """Models whose ``model_type`` is ``qwen3_vl``.

    ``qwen3_vl_moe`` has the same form, but ms-swift must be called with that type: a folder of it is refused.
    """

    name = "qwen3_vl"
    model_types = ("qwen3_vl",)
    hub_names = re.compile("qwen3vl")
    dialect = "qwen3_vl"
    swift_model_type = "qwen3_vl"
    swift_template = "qwen3_vl"
    system_prompt = None
    token_side = 32  # 2 x 2 patches of 16 x 16 pixels
    objects_environments: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "qwen3_vl": JSON_BOXES,
        "qwen2_vl": LEGACY_BOXES,  # the same thousandths, between special tokens
    }


QWEN3_VL = Qwen3VLFamily()
