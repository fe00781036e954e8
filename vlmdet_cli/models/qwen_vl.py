"""What the Qwen families share: the chat form, the picture sizes and the special tokens.

The families differ in their system prompt, in the side of a picture token, and in the dialect of their boxes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from vlmdet_cli.core.boxes import Boxes
from vlmdet_cli.errors import UsageError
from vlmdet_cli.models import image_sizes
from vlmdet_cli.models.chatml import ChatMLFamily
from vlmdet_cli.models.processor_files import picture_processor_settings

if TYPE_CHECKING:
    from PIL import Image

# the variable that selects how a template of Qwen writes the boxes of ``objects`` rows
LEGACY_BOXES, JSON_BOXES = {"QWENVL_BBOX_FORMAT": "legacy"}, {"QWENVL_BBOX_FORMAT": "new"}


class QwenVLFamily(ChatMLFamily):
    """The common base; a family's module states what differs."""

    system_prompt: str | None = "You are a helpful assistant."
    picture_text = "<|vision_start|><|image_pad|><|vision_end|>"
    end_tokens = ("<|im_end|>", "<|endoftext|>")
    image_token = "<|image_pad|>"  # noqa: S105  (no password)
    special_tokens = (
        *(f"<|{name}_{end}|>" for name in ("object_ref", "box", "vision") for end in ("start", "end")),
        "<|im_start|>",
        *end_tokens,
        image_token,
    )
    token_side: int = 28  # pixels across one picture token: 2 x 2 patches of 14 x 14 pixels
    objects_environments: ClassVar[Mapping[str, Mapping[str, str]]]

    def trained_sizes(self, sizes_wh: Any, max_pixels: int | None) -> Boxes:
        return image_sizes.trained_sizes(sizes_wh, max_pixels, self.token_side)

    def image_tokens(self, sizes_wh: Any, max_pixels: int | None) -> npt.NDArray[np.int64]:
        sides = self.trained_sizes(sizes_wh, max_pixels) / self.token_side
        tokens: npt.NDArray[np.int64] = (sides[:, 0] * sides[:, 1]).astype(np.int64)
        return tokens

    def resize(self, image: "Image.Image", max_pixels: int | None) -> "Image.Image":
        return image_sizes.resize(image, max_pixels, self.token_side)

    def fitting_flags(self) -> dict[str, int]:
        """Half of a row's tokens for the picture: large photographs are shrunk, and text has room."""
        return {"max_length": 2048, "max_pixels": 1024 * self.token_side**2}

    def pixel_limit(self, folder: Path) -> int | None:
        """The limit is ``max_pixels`` or ``size.longest_edge`` of the picture processor's settings."""
        settings = picture_processor_settings(folder)
        limit = settings.get("max_pixels") or (settings.get("size") or {}).get("longest_edge")
        if not isinstance(limit, int | None):
            raise UsageError(f"The processor's pixel limit is no number: {folder}", why=f"It is {limit!r}.")
        return limit if limit and limit < image_sizes.MAX_TOKENS * self.token_side**2 else None
