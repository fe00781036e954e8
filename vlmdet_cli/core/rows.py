"""The instruction row, and the kinds of rows.

{"messages": [{"role": "user", "content": "<image>Draw the bounding box of objects"},
              {"role": "assistant", "content": "<|object_ref_start|>cat<|object_ref_end|><|box_start|>…"}],
 "images": ["data/subset/images/train/7.jpg"]}
"""

from typing import Any, Literal, get_args

import msgspec

from vlmdet_cli.core.annotations import Box

QuestionKind = Literal["count", "full", "partial", "none", "region", "class", "largest", "left"]
Kind = Literal["detection"] | QuestionKind
QUESTION_KINDS: tuple[QuestionKind, ...] = get_args(QuestionKind)


class InstructionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A picture, a prompt that begins with ``<image>``, and the true answer.

    ``area`` is the box that prompt and answer name, ``objects`` are the (label, box) pairs that the answer names; both
    in pixels of the picture, ``area`` after rounding to the dialect's frame.
    """

    image: str
    prompt: str
    answer: str
    kind: Kind = "detection"
    area: Box | None = None
    objects: tuple[tuple[str, Box], ...] | None = None

    def row(self) -> dict[str, Any]:
        """The row that ms-swift reads."""
        user = {"role": "user", "content": self.prompt}
        return {"messages": [user, {"role": "assistant", "content": self.answer}], "images": [self.image]}
