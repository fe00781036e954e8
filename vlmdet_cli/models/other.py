"""A model that ms-swift knows and vlmdet has no module for: swift alone writes its chat and sizes its pictures."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from vlmdet_cli.core.boxes import Boxes, as_sizes
from vlmdet_cli.errors import UsageError
from vlmdet_cli.models.family import Family

if TYPE_CHECKING:
    from PIL import Image


class OtherFamily(Family):
    """Stands for every such model. Its dialect must be named, and its tokens are not counted."""

    name = "other"
    is_known = False
    model_types = ()
    hub_names = re.compile(r"(?!)")  # none
    dialect = ""
    swift_model_type = ""
    swift_template = ""
    system_prompt = None
    end_tokens = ()
    image_token = ""
    special_tokens = ()
    objects_environments: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def request_text(self, question: str, system: str | None = None) -> str:
        del question, system
        raise UsageError(
            "Only ms-swift knows the chat form of this model",
            why="vlmdet has no module for its family.",
            hint='Set infer.engine = "swift" or "auto".',
        )

    def row_text(self, question: str, answer: str, system: str | None = None) -> str:
        """Question and answer alone."""
        del system
        return question + answer

    def trained_sizes(self, sizes_wh: Any, max_pixels: int | None) -> Boxes:
        """The sizes as they are: what the template makes of them is not known."""
        del max_pixels
        return as_sizes(sizes_wh)

    def resize(self, image: "Image.Image", max_pixels: int | None) -> "Image.Image":
        """The picture as it is: the template resizes it."""
        del max_pixels
        return image.convert("RGB")

    def pixel_limit(self, folder: Path) -> int | None:
        """None: swift heeds what the folder states."""
        del folder
        return None

    def fitting_flags(self) -> dict[str, int]:
        """None: no tokens are counted."""
        return {}

    def swift_flags(self) -> dict[str, str]:
        """None: swift recognises the folder by itself, or ``[train.swift]`` says what it is."""
        return {}

    def objects_environment(self, dialect: str) -> dict[str, str]:
        """No variable: which dialects the template writes is the user's to know."""
        del dialect
        return {}

    def image_tokens(self, sizes_wh: Any, max_pixels: int | None) -> npt.NDArray[np.int64]:
        """0 for each picture: not known."""
        del max_pixels
        return np.zeros(len(as_sizes(sizes_wh)), np.int64)


OTHER = OtherFamily()
