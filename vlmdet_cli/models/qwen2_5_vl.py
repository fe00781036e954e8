"""Qwen2.5-VL: boxes in pixels of the resized picture, as JSON."""

import re
from collections.abc import Mapping
from typing import ClassVar

from vlmdet_cli.models.qwen_vl import JSON_BOXES, QwenVLFamily


class Qwen25VLFamily(QwenVLFamily):
    """Models whose ``model_type`` is ``qwen2_5_vl``."""

    name = "qwen2_5_vl"
    model_types = ("qwen2_5_vl",)
    hub_names = re.compile(r"qwen2\.?5vl")
    dialect = "qwen2_5_vl"
    swift_model_type = "qwen2_5_vl"
    swift_template = "qwen2_5_vl"
    objects_environments: ClassVar[Mapping[str, Mapping[str, str]]] = {"qwen2_5_vl": JSON_BOXES}


QWEN2_5_VL = Qwen25VLFamily()
