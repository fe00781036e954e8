"""The searches of a project file: experiments whose values are chosen trial by trial, by Optuna.

    [experiments.tune]
    train.num_train_epochs = 3                # what all trials have

    [experiments.tune.search]
    trials = 20

    [experiments.tune.search.space]
    train.lora_rank = [8, 16, 32, 64]         # one of these
    train.learning_rate = { low = 1e-5, high = 1e-3, log = true }
    train.lora_dropout = { low = 0.0, high = 0.2 }

A range of two integers gives integers. ``tune-trial0`` is the run of the first trial, as Optuna counts.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from vlmdet_cli.project.experiments import Variant, grid

KEY = "search"


class Range(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From ``low`` to ``high``, both included. ``log``: the logarithm is uniform. ``step``: of equal distances."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError("low must be less than high")
        if self.log and self.low <= 0:
            raise ValueError("log needs a low above 0")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other")
        if self.step is not None and self.step <= 0:
            raise ValueError("step must be above 0")

    def in_words(self) -> str:
        return f"{self.low} … {self.high}{', log' * self.log}"


Choices = list[Any]


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """A search. ``values``: what all trials override, ``space``: what each trial chooses from, both by dotted key.

    ``trials``: their number. ``sampler``: Optuna's ``TPESampler`` or ``RandomSampler``, seeded by ``seed``.
    """

    name: str
    values: dict[str, Any]
    space: dict[str, Range | Choices]
    trials: int = 20
    sampler: Literal["tpe", "random"] = "tpe"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ValueError("trials must be at least 1")

    def in_words(self) -> dict[str, Any]:
        """Values and axes, as they are shown."""
        axes = {key: axis.in_words() if isinstance(axis, Range) else axis for key, axis in self.space.items()}
        return self.values | axes

    def variant(self, number: int, chosen: Mapping[str, Any]) -> Variant:
        return Variant(name=f"{self.name}-trial{number}", experiment=self.name, values=self.values | dict(chosen))


def is_search(table: Mapping[str, Any]) -> bool:
    """Whether the table of an experiment is a search."""
    return KEY in table


def read_search(name: str, table: Mapping[str, Any]) -> Search:
    """The search of an experiment. Raises ``ValueError``, which names the key, for what is no search."""
    settings = table[KEY]
    if not isinstance(settings, dict) or not isinstance(settings.get("space"), dict):
        raise ValueError(  # noqa: TRY004 - a mistake in a file
            f"{KEY}.space: a table of keys, each with a list of values or a range, is missing"
        )
    fixed = [*grid(name, {key: value for key, value in table.items() if key != KEY})]
    if len(fixed) != 1:
        raise ValueError("a list of several values goes into search.space")
    space = dict(_axes(settings["space"]))
    if not space:
        raise ValueError(f"{KEY}.space: is empty")
    if both := [key for key in space if key in fixed[0].values]:
        raise ValueError(f"{KEY}.space.{both[0]}: the experiment sets this key, too")
    named = {"name": name, "values": fixed[0].values, "space": {}}
    try:
        known = msgspec.convert(settings | named, Search)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        raise ValueError(f"{KEY}{where.strip('`') or ''}: {message}") from None
    fields = {field.name for field in msgspec.structs.fields(Search)} - {"name", "values"}
    if unknown := [key for key in settings if key not in fields]:
        raise ValueError(f"{KEY}.{unknown[0]}: unknown key; there are {', '.join(sorted(fields))}")
    return msgspec.structs.replace(known, space=space)


def _axes(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Range | Choices]]:
    """What each dotted key is chosen from. Raises ``ValueError`` for what is neither a range nor a list."""
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and not {"low", "high"} & set(value):
            yield from _axes(value, f"{path}.")
        elif isinstance(value, dict):
            try:
                yield path, msgspec.convert(value, Range)
            except msgspec.ValidationError as error:
                raise ValueError(f"{KEY}.space.{path}: {error}") from None
        elif isinstance(value, list) and len(value) > 1:
            yield path, value
        else:
            raise ValueError(f"{KEY}.space.{path}: expected a list of two values or more, or {{ low = …, high = … }}")
