r"""PaliGemma and PaliGemma 2: boxes as location tokens, y before x, in 1,024 bins.

There is no chat and no system prompt. A row is, as ms-swift's template ``paligemma`` writes it:

    PICTURE<bos>QUESTION\nANSWER<eos>

The processor makes every picture a square of the model's one size, so that each takes the same number of tokens.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from vlmdet_cli.core.boxes import Boxes, as_sizes
from vlmdet_cli.errors import UsageError
from vlmdet_cli.models import image_sizes
from vlmdet_cli.models.family import IMAGE_TAG, Family
from vlmdet_cli.models.processor_files import picture_processor_settings

if TYPE_CHECKING:
    from PIL import Image

_LOCATION = re.compile(r"<loc\d{4}>")
_SIDE = re.compile(r"-(224|448|896)(?!\d)")  # of pictures in pixels, in a published model's name


@dataclass(frozen=True)
class PaliGemmaFamily(Family):
    """Models whose ``model_type`` is ``paligemma``. ``picture_tokens``: of any picture; 256 for 224 x 224 pixels."""

    picture_tokens: int = 256

    name = "paligemma"
    model_types = ("paligemma",)
    hub_names = re.compile("paligemma")
    dialect = "paligemma"
    swift_model_type = "paligemma"
    swift_template = "paligemma"
    system_prompt = None
    takes_system = False
    end_tokens = ("<eos>",)
    image_token = IMAGE_TAG
    special_tokens = ("<bos>", image_token, *end_tokens)
    objects_environments: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    no_engines: ClassVar[Mapping[str, str]] = {
        "vllm": "vLLM writes the picture and the line's end into a prompt of PaliGemma by itself."
    }

    def request_text(self, question: str, system: str | None = None) -> str:
        if system:
            raise UsageError("PaliGemma takes no system prompt", hint="Leave out train.swift.system.")
        if IMAGE_TAG not in question:
            question = IMAGE_TAG + question
        return question.replace(IMAGE_TAG, f"{self.image_token}<bos>") + "\n"

    def row_text(self, question: str, answer: str, system: str | None = None) -> str:
        return f"{self.request_text(question, system)}{answer}<eos>"

    def trained_sizes(self, sizes_wh: Any, max_pixels: int | None) -> Boxes:
        return image_sizes.shrunk_sizes(sizes_wh, max_pixels)

    def resize(self, image: "Image.Image", max_pixels: int | None) -> "Image.Image":
        return image_sizes.shrink(image, max_pixels)

    def image_tokens(self, sizes_wh: Any, max_pixels: int | None) -> npt.NDArray[np.int64]:
        del max_pixels
        return np.full(len(as_sizes(sizes_wh)), self.picture_tokens, np.int64)

    def inputs(self, processor: Any, texts: Sequence[str], pictures: "Sequence[Image.Image]") -> Any:
        """As in ``Family``; the processor would add ``<bos>`` and the line's end, which the texts have."""
        import torch

        long = [text.replace(self.image_token, self.image_token * processor.image_seq_length) for text in texts]
        inputs = processor.tokenizer(long, padding=True, add_special_tokens=False, return_tensors="pt")
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])  # all of it sees all of it
        inputs["pixel_values"] = processor.image_processor(list(pictures), return_tensors="pt")["pixel_values"]
        return inputs

    def processor_arguments(self) -> dict[str, Any]:
        return {}

    def fitting_flags(self) -> dict[str, int]:
        """Room for the picture and about a hundred boxes."""
        return {"max_length": self.picture_tokens + 768}

    def pixel_limit(self, folder: Path) -> int | None:
        """None: the processor takes pictures of any size."""
        del folder
        return None

    def configured(self, folder: Path) -> "PaliGemmaFamily":
        """The family with the tokens of a picture that the folder states, or that a hub's name tells."""
        stated = picture_processor_settings(folder).get("image_seq_length")
        if stated is None:
            side = _SIDE.search(folder.name)
            return replace(self, picture_tokens=(int(side[1]) // 14) ** 2) if side else self
        if not isinstance(stated, int) or stated < 1:
            raise UsageError(f"The processor's image_seq_length is no number above 0: {folder}", why=f"{stated!r}.")
        return replace(self, picture_tokens=stated)

    def max_text_tokens(self, text: str) -> int:
        return super().max_text_tokens(_LOCATION.sub("<", text))


PALIGEMMA = PaliGemmaFamily()
