"""What the records of settings share: the base of a table, types with bounds, and choices that several rooms know.

A room defines the record of its own settings; ``project.config`` puts them together to the project file.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
AboveZero = Annotated[float, msgspec.Meta(gt=0)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
Classes = Literal["all", "present"]  # whether predicted classes that a picture does not have count as false
Duplicates = Literal["count", "remove"]  # whether exact repeats of a predicted box count as false
Ask = Literal["rows", "all", "each", "present"]  # which classes ``infer`` asks for, see ``prompts.asking``
ScoreSource = Literal["auto", "constant", "file", "logprob"]  # where the scores of predicted boxes come from
# how log-probabilities become a score, see ``models.dialects.scores``
ScoreRule = Literal[
    "product", "geometric_mean", "label", "min_coordinate", "label_times_mean", "label_times_token_mean",
    "label_times_min",
]  # fmt: skip
RewardName = Literal["detection", "silence", "form", "count", "area"]  # see ``metrics.rewards``
DEFAULT_SCORE_RULE: ScoreRule = "label_times_token_mean"


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A table of the project file."""


def dotted_items(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values in nested tables, each with its dotted key."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from dotted_items(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
