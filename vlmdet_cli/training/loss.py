"""How much each token of an answer counts in the loss: ms-swift's ``loss_scale``, registered by our plug-in.

The coordinates of boxes count ``coordinate_weight`` times, those of invented boxes (``prompts.noise``) not at all, all
other tokens once. A part that counts differently is
tokenized by itself; the token ids stay what they are, since the tokenizers of all dialects split at a coordinate's
borders anyway. swift divides the sum of the weighted losses by the number of tokens, not by the sum of their weights.

Inside swift's process the settings come from the environment (``ENVIRONMENT``), as JSON.
"""

import itertools
import os
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.models import dialects
from vlmdet_cli.models.dialects import Dialect

NAME, ENVIRONMENT = "vlmdet", "VLMDET_LOSS"
PLUGIN = Path(__file__).parent / "swift_plugins" / "vlmdet_loss.py"


class LossSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``dialect``: of the answers, by name. ``coordinate_weight``: of the coordinates of boxes. ``noise_label``: of the
    boxes whose coordinates count nothing, "" for none.
    """

    dialect: str
    coordinate_weight: float = 1.0
    noise_label: str = ""

    def text(self) -> str:
        """The settings as JSON, for the environment of swift's process."""
        return msgspec.json.encode(self).decode()


def weighted_parts(text: str, dialect: Dialect, settings: LossSettings) -> tuple[list[str], list[float]]:
    """An answer cut into parts, and the weight of each part's tokens. The parts together are the answer."""
    cuts, weights = [0], list[float]()
    for label, coordinates in dialect.coordinates(text):
        weight = 0.0 if label == settings.noise_label else settings.coordinate_weight
        for start, end in coordinates:
            cuts += [start, end]
            weights += [1.0, weight]
    parts = [text[start:end] for start, end in itertools.pairwise([*cuts, len(text)])]
    pairs = [pair for pair in zip(parts, [*weights, 1.0], strict=True) if pair[0]]
    return [part for part, _ in pairs], [weight for _, weight in pairs]


def register() -> None:
    """Register the weights in ms-swift, in whose process this runs; without settings, such as in a merge, nothing."""
    if ENVIRONMENT not in os.environ:
        return
    from swift.loss_scale import LossScale, loss_scale_map

    settings = msgspec.json.decode(os.environ[ENVIRONMENT], type=LossSettings)
    dialect = dialects.get(settings.dialect)

    class WeightedTokens(LossScale):  # type: ignore[misc]
        """``weighted_parts`` of each text that swift computes a loss for."""

        is_binary = settings.coordinate_weight == 1  # then swift leaves tokens out of the loss, and weighs none

        def get_loss_scale(self, context: Any, **_: Any) -> tuple[list[Any], list[float]]:
            if not isinstance(context, str) or not context:
                return [context], [1.0]
            return weighted_parts(context, dialect, settings)

    loss_scale_map[NAME] = WeightedTokens
