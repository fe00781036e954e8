"""Qwen2-VL: boxes in thousandths between special tokens."""

import re
from collections.abc import Mapping
from typing import ClassVar

from vlmdet_cli.models.qwen_vl import JSON_BOXES, LEGACY_BOXES, QwenVLFamily


class Qwen2VLFamily(QwenVLFamily):
    """Models whose ``model_type`` is ``qwen2_vl``."""

    name = "qwen2_vl"
    model_types = ("qwen2_vl",)
    hub_names = re.compile("qwen2vl")
    dialect = "qwen2_vl"
    swift_model_type = "qwen2_vl"
    swift_template = "qwen2_vl"
    objects_environments: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "qwen2_vl": LEGACY_BOXES,
        "qwen3_vl": JSON_BOXES,  # the same thousandths, as JSON
    }


QWEN2_VL = Qwen2VLFamily()
