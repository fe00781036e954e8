r"""What the Qwen families share: the chat form, the picture sizes and the special tokens.

The chat form is that of ms-swift's templates ``qwen2_vl``, ``qwen2_5_vl`` and ``qwen3_vl``:

    <|im_start|>system\nYou are a helpful assistant.<|im_end|>
    <|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>QUESTION<|im_end|>
    <|im_start|>assistant\nANSWER<|im_end|>

A family without a system prompt of its own has no system turn. The families differ in that, in the side of a picture
token, and in the dialect of their boxes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vlmdet_cli.core.boxes import Boxes
from vlmdet_cli.core.files import read_json
from vlmdet_cli.errors import UsageError
from vlmdet_cli.models import image_sizes
from vlmdet_cli.models.family import IMAGE_TAG, Family

if TYPE_CHECKING:
    from PIL import Image

_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
# the variable that selects how a template of Qwen writes the boxes of ``objects`` rows
LEGACY_BOXES, JSON_BOXES = {"QWENVL_BBOX_FORMAT": "legacy"}, {"QWENVL_BBOX_FORMAT": "new"}


class QwenVLFamily(Family):
    """The common base; a family's module states what differs."""

    system_prompt: str | None = "You are a helpful assistant."
    end_tokens = ("<|im_end|>", "<|endoftext|>")
    image_token = "<|image_pad|>"  # noqa: S105  (no password)
    special_tokens = (
        *(f"<|{name}_{end}|>" for name in ("object_ref", "box", "vision") for end in ("start", "end")),
        "<|im_start|>",
        *end_tokens,
        image_token,
    )
    token_side = 28  # 2 x 2 patches of 14 x 14 pixels
    objects_environments: ClassVar[Mapping[str, Mapping[str, str]]]

    def request_text(self, question: str, system: str | None = None) -> str:
        if IMAGE_TAG not in question:
            question = IMAGE_TAG + question
        turns = [("user", question.replace(IMAGE_TAG, _IMAGE))]
        if system := self.system_prompt if system is None else system:
            turns.insert(0, ("system", system))
        text = "".join([f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns])
        return f"{text}<|im_start|>assistant\n"

    def row_text(self, question: str, answer: str, system: str | None = None) -> str:
        return f"{self.request_text(question, system)}{answer}<|im_end|>\n"

    def trained_sizes(self, sizes_wh: Any, max_pixels: int | None) -> Boxes:
        return image_sizes.trained_sizes(sizes_wh, max_pixels, self.token_side)

    def resize(self, image: "Image.Image", max_pixels: int | None) -> "Image.Image":
        return image_sizes.resize(image, max_pixels, self.token_side)

    def pixel_limit(self, folder: Path) -> int | None:
        """The limit is ``max_pixels`` or ``size.longest_edge`` of the picture processor's settings."""
        file, settings = folder / "preprocessor_config.json", dict[str, Any]()
        if file.is_file():
            settings = read_json(file, "processor's settings")
        elif (file := folder / "processor_config.json").is_file():
            settings = read_json(file, "processor's settings").get("image_processor", {})
        limit = settings.get("max_pixels") or (settings.get("size") or {}).get("longest_edge")
        if not isinstance(limit, int | None):
            raise UsageError(f"The processor's pixel limit is no number: {file}")
        return limit if limit and limit < image_sizes.MAX_TOKENS * self.token_side**2 else None
