"""What is known of a model family: its chat form, its picture sizes, its dialect, and its names in ms-swift.

Rows, token counts, requests and parsing ask the family; no other module knows a special token or a picture's size
in tokens. A new family is a module with a subclass of ``Family`` and a line in ``registry``.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from vlmdet_cli.core.boxes import Boxes
from vlmdet_cli.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

IMAGE_TAG = "<image>"  # the place of a row's picture in its question, as ms-swift writes it


class Family(ABC):
    """One model family.

    ``is_known``: false only for ``models.other``, which stands for the models that vlmdet has no module for.
    ``model_types``: its values of ``model_type`` in a model's ``config.json``. ``hub_names``: matches a part of its
    models' names on a hub, lower case, without ``-`` and ``_``. ``dialect``: the name of its dialect
    in ``models.dialects``. ``system_prompt``: the one that ms-swift's template puts first by default, None where there
    is none. ``takes_system``: whether there can be one. ``end_tokens``: those that end an answer. ``image_token``: the
    token that stands for a picture in ``request_text``. ``special_tokens``: those of the texts of rows, ``end_tokens``
    and ``image_token`` included; each begins with ``<``, and the most frequent come first.
    ``objects_environments``: the dialects that ms-swift's template can write the boxes of ``objects`` rows in, each
    with the environment variables that select it. ``no_engines``: the engines that cannot answer for the family, each
    with the reason.
    """

    is_known: ClassVar[bool] = True
    name: str
    model_types: tuple[str, ...]
    hub_names: "re.Pattern[str]"
    dialect: str
    swift_model_type: str
    swift_template: str
    system_prompt: str | None
    takes_system: bool = True
    end_tokens: tuple[str, ...]
    image_token: str
    special_tokens: tuple[str, ...]
    objects_environments: ClassVar[Mapping[str, Mapping[str, str]]]
    no_engines: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def request_text(self, question: str, system: str | None = None) -> str:
        """The chat up to the answer, with one ``image_token`` where the question has ``<image>``.

        A question without ``<image>`` gets the picture in front of it, as ms-swift does. ``system`` replaces the
        family's own system prompt; an empty one leaves the system turn out.
        """

    @abstractmethod
    def row_text(self, question: str, answer: str, system: str | None = None) -> str:
        """The whole text of a training row, as ms-swift's template writes it; the picture as in ``request_text``."""

    @abstractmethod
    def trained_sizes(self, sizes_wh: Any, max_pixels: int | None) -> Boxes:
        """Sizes of pictures, ``(N, 2)`` to ``(N, 2)`` pixels, as ``resize`` leaves them."""

    @abstractmethod
    def image_tokens(self, sizes_wh: Any, max_pixels: int | None) -> npt.NDArray[np.int64]:
        """The number of tokens of each picture, ``(N, 2)`` sizes to ``(N,)``: what replaces ``image_token``."""

    @abstractmethod
    def resize(self, image: "Image.Image", max_pixels: int | None) -> "Image.Image":
        """The picture in RGB, exactly as ms-swift hands it to the family's processor in training.

        Where that processor resizes, it does so in training and here; ``processor_arguments`` tell which is the case.
        Raises ``ValueError`` for a picture that training refuses.
        """

    @abstractmethod
    def pixel_limit(self, folder: Path) -> int | None:
        """The pixel limit that the processor in a model folder states, None where it is not below the family's own.

        Raises ``UsageError`` for a limit that is no number.
        """

    def configured(self, folder: Path) -> "Family":
        """The family with what a model folder's own files change of it; the same where there is nothing.

        Raises ``UsageError`` for settings that the family cannot have.
        """
        del folder
        return self

    @abstractmethod
    def fitting_flags(self) -> dict[str, int]:
        """The flags of ms-swift under which rows of usual pictures fit: what a new project begins with."""

    def inputs(self, processor: Any, texts: Sequence[str], pictures: "Sequence[Image.Image]") -> Any:
        """What transformers' model takes for a batch: token ids padded by the tokenizer's side, masks, picture values.

        ``processor``: transformers' processor of the model. ``texts``: as ``request_text`` writes them. ``pictures``:
        one for each text, as ``resize`` returns them.
        """
        arguments = {"padding": True, "return_tensors": "pt", **self.processor_arguments()}
        return processor(text=list(texts), images=list(pictures), **arguments)

    def processor_arguments(self) -> dict[str, Any]:
        """The arguments by which transformers' processor, vLLM's too, treats a picture of ``resize`` as in training.

        By default it leaves the pixels alone.
        """
        return {"do_resize": False}

    def swift_flags(self) -> dict[str, str]:
        """The flags by which ms-swift recognises a model folder of the family."""
        return {"model_type": self.swift_model_type, "template": self.swift_template}

    def objects_environment(self, dialect: str) -> dict[str, str]:
        """The variables under which ms-swift writes ``objects`` rows in that dialect.

        Raises ``UsageError`` where its template of the family cannot.
        """
        if dialect not in self.objects_environments:
            raise UsageError(
                f"Rows with `objects` cannot be written in the dialect {dialect}",
                why=f"ms-swift's template of {self.name} writes: {', '.join(self.objects_environments)}.",
                hint='Set format.rows = "text", or another format.dialect.',
            )
        return dict(self.objects_environments[dialect])

    def trained_size(self, size_wh: tuple[int, int], max_pixels: int | None) -> tuple[int, int]:
        """``trained_sizes`` of one picture."""
        width, height = self.trained_sizes([size_wh], max_pixels)[0].tolist()
        return int(width), int(height)

    def max_text_tokens(self, text: str) -> int:
        """An upper bound of a text's tokens: a byte is at most one token, and a special token is one."""
        size = len(text) if text.isascii() else len(text.encode())
        unexplained = text.count("<")  # each special token begins with it: a text is not searched for all of them
        for token in self.special_tokens:
            if not unexplained:
                break
            count = text.count(token)
            unexplained -= count
            size -= count * (len(token) - 1)
        return size
