"""The experiments of a project file: tables of overrides, in which a list stands for a grid.

    [experiments.rank]
    train.lora_rank = [8, 16, 32]
    train.freeze_vit = true

is three variants: ``rank-8``, ``rank-16`` and ``rank-32``. A key whose value is itself a list takes a list of lists:
``subset.categories = [["person"], ["person", "car"]]``.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from vlmdet_cli.core.settings import dotted_items
from vlmdet_cli.errors import UsageError, nearest

_NOT_OF_A_NAME = re.compile(r"[^A-Za-z0-9_.-]+")
SEED = "train.swift.seed"


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One setting of an experiment. ``name``: of its run. ``values``: what it overrides, by dotted key. ``seed``: of
    the training, None for swift's own.
    """

    name: str
    experiment: str
    values: dict[str, Any]
    seed: int | None = None

    @property
    def overrides(self) -> dict[str, Any]:
        """``values`` and the seed, by dotted key."""
        return self.values | ({} if self.seed is None else {SEED: self.seed})

    def settings(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """Nested settings with the overrides of the variant; ``tree`` is not changed."""
        return overridden(tree, self.overrides)


def variants(experiments: Mapping[str, Mapping[str, Any]], names: Sequence[str], seeds: int = 0) -> list[Variant]:
    """The variants of the experiments ``names``, of all where none is named, in the order of the file.

    ``seeds``: repeat each with the seeds 1 … ``seeds``. Raises ``UsageError`` for a name that no experiment has, and
    where two variants get the same name.
    """
    chosen = [variant for name, table in select(experiments, names).items() for variant in grid(name, table)]
    result = [
        msgspec.structs.replace(variant, name=f"{variant.name}-seed{seed}", seed=seed) if seeds else variant
        for variant in chosen
        for seed in range(1, max(seeds, 1) + 1)
    ]
    if len({variant.name for variant in result}) < len(result):
        raise UsageError(
            "Two variants have the same name", why=[variant.name for variant in result], hint="Rename an experiment."
        )
    return result


def select(experiments: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """The experiments of these names, all where none is named. Raises ``UsageError`` for a name that no one has."""
    if not experiments:
        raise UsageError("The project file has no experiments", hint="Write a table [experiments.NAME] of overrides.")
    for name in names:
        if name not in experiments:
            raise UsageError(
                f"No experiment {nearest(name, experiments)}", hint=f"There are: {', '.join(experiments)}."
            )
    return {name: experiments[name] for name in names or experiments}


def grid(name: str, table: Mapping[str, Any]) -> Iterator[Variant]:
    """The variants of one experiment: every combination of the values of its lists."""
    values = dict(dotted_items(table))
    axes = {key: value if isinstance(value, list) else [value] for key, value in values.items()}
    varied = [key for key, choices in axes.items() if len(choices) > 1]
    for combination in itertools.product(*axes.values()):
        chosen = dict(zip(axes, combination, strict=True))
        parts = [name, *(_NOT_OF_A_NAME.sub("_", str(chosen[key])).strip("_") for key in varied)]
        yield Variant(name="-".join(parts), experiment=name, values=chosen)


def overridden(tree: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with some values, given by dotted key, in place of its own; ``tree`` is not changed."""
    result = dict(tree)
    for key, value in values.items():
        first, _, rest = key.partition(".")
        inner = result.get(first)
        result[first] = overridden(inner if isinstance(inner, dict) else {}, {rest: value}) if rest else value
    return result
