"""Shards of an inference: parts of a split's rows that machines answer apart, and what they answered, put together.

    answers/test.shard-2-of-8.jsonl        an answers file like any other, with its account
            test.shard-2-of-8.meta.json
            test.jsonl                     all rows in their order, written by ``collect``

The rows alone decide the parts: every machine that has the prepared split computes the same ones. Shards of another
number of parts may lie in the same folder.
"""

import heapq
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from vlmdet_cli.core.answers import Answer
from vlmdet_cli.core.settings import dotted_items
from vlmdet_cli.engines.answers import AnswersMeta, StoredAnswers, read_meta
from vlmdet_cli.engines.infer_rows import InferRow
from vlmdet_cli.errors import DataError, counted, first_few

Shard = tuple[int, int]  # (i, n): the i-th of n, from 1
_SUFFIX = re.compile(r"\.shard-(\d+)-of-(\d+)\.jsonl")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The whole that shards are parts of: its answers file, its rows by key, its split and the split's hash."""

    path: Path
    rows: Mapping[str, InferRow]
    split: str
    data: str


class Shards(msgspec.Struct, frozen=True, kw_only=True):
    """``count`` shards of a target, as they lie on the disk, by number: the account of each that is there, and the
    answers.
    """

    target: Target
    count: int
    metas: Mapping[int, AnswersMeta]
    stored: Mapping[int, StoredAnswers]

    def name(self, number: int) -> str:
        return f"Shard {number}/{self.count}"

    def answers(self) -> Iterator[tuple[str, Answer]]:
        """The answers to all rows of the target by key, in the order of the rows, with the truth of today."""
        part_of = _parts(self.target.rows.values(), self.count)
        parts = {number: self._part(stored) for number, stored in self.stored.items()}
        for row in self.target.rows.values():
            key, answer = next(parts[part_of[row.image]])
            yield key, row.refreshed(answer)

    def _part(self, stored: StoredAnswers) -> Iterator[tuple[str, Answer]]:
        return stored.items(key for key in self.target.rows if key in stored)


def shard_path(answers: Path, shard: Shard) -> Path:
    """The answers file of a shard, beside that of the whole."""
    return answers.with_name(f"{answers.stem}.shard-{shard[0]}-of-{shard[1]}.jsonl")


def shard_rows(rows: Collection[InferRow], shard: Shard) -> Iterator[InferRow]:
    """The rows of a shard, in their order; there may be none."""
    part_of = _parts(rows, shard[1])
    return (row for row in rows if part_of[row.image] == shard[0])


def _parts(rows: Iterable[InferRow], count: int) -> dict[str, int]:
    """Picture to the number of its part, in [1, count]: each picture, with all its rows, goes to the part that has the
    fewest rows so far.
    """
    num_rows = dict[str, int]()
    for row in rows:
        num_rows[row.image] = num_rows.get(row.image, 0) + 1
    parts = [(0, number) for number in range(1, count + 1)]
    part_of = dict[str, int]()
    for image, num in num_rows.items():
        filled, number = parts[0]
        heapq.heapreplace(parts, (filled + num, number))
        part_of[image] = number
    return part_of


# --- putting together ----------------------------------------------------------------------------------------


def complete_shards(target: Target) -> Shards:
    """The shards that hold one answer to every row of the target.

    Raises ``DataError``: there are no shards; they are not of one model and its settings; they are not to the split as
    it is prepared; or rows have no answer, with the commands that ask for them.
    """
    present = list(_shards(target))
    if not present:
        raise DataError(
            f"No shards to collect: {target.path.parent}",
            hint=f"Run `vlmdet infer --split {target.split} --shard 1/N` to `--shard N/N` first.",
        )
    _require_same_model(present)
    problems, hint = list[str](), ""
    for shards in present:
        missing = _problems(shards)
        if not missing:
            return shards
        problems += missing.values()
        hint = _missing_hint(shards, list(missing))
    raise DataError(
        f"The shards do not hold an answer to every row of the split {target.split}: {target.path.parent}",
        why=first_few(problems, 8),
        hint=hint,
    )


def _shards(target: Target) -> Iterator[Shards]:
    """The shards that lie beside the target's file, by number of parts."""
    counts = set[int]()
    for path in target.path.parent.glob(f"{_escaped(target.path.stem)}.shard-*-of-*.jsonl"):
        match = _SUFFIX.fullmatch(path.name.removeprefix(target.path.stem))
        counts |= {int(match[2])} if match else set()
    for count in sorted(counts):
        paths = {number: shard_path(target.path, (number, count)) for number in range(1, count + 1)}
        metas = {number: meta for number, path in paths.items() if (meta := read_meta(path))}
        stored = {number: StoredAnswers.of(path) for number, path in paths.items()}
        yield Shards(target=target, count=count, metas=metas, stored=stored)


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _require_same_model(present: Sequence[Shards]) -> None:
    """Raise where the accounts of all shards that are there do not tell of one model, asked in one way."""
    accounts = [(shards.name(number), meta) for shards in present for number, meta in shards.metas.items()]
    if not accounts:
        return
    first, reference = accounts[0]
    differing = [
        f"{name} differs from {first[0].lower()}{first[1:]} in {', '.join(fields)}."
        for name, meta in accounts[1:]
        if (fields := _differences(meta, reference))
    ]
    if differing:
        folder = present[0].target.path.parent
        raise DataError(
            f"The shards are not of one model and its settings: {folder}",
            why=first_few(differing),
            hint="Remove the files of the earlier ones, or run `vlmdet infer --shard` again for them.",
        )


def _differences(meta: AnswersMeta, reference: AnswersMeta) -> list[str]:
    ours, others = (
        dict(dotted_items(account.identity() | {"split": account.split, "run": account.run}))
        for account in (meta, reference)
    )
    return [key for key in ours | others if ours.get(key) != others.get(key)]


def _problems(shards: Shards) -> dict[int, str]:
    """Why a shard does not hold one answer to each of its rows, and no other; by number, of those that do not."""
    own: dict[int, dict[str, str]] = {number: {} for number in shards.stored}
    part_of = _parts(shards.target.rows.values(), shards.count)
    for key, row in shards.target.rows.items():
        own[part_of[row.image]][key] = row.image
    problems = {number: _problem(shards, number, images) for number, images in own.items()}
    return {number: f"{shards.name(number)}: {problem}" for number, problem in problems.items() if problem}


def _problem(shards: Shards, number: int, images: Mapping[str, str]) -> str:
    """``images``: the pictures of the shard's rows by key."""
    meta, stored = shards.metas.get(number), shards.stored[number]
    if meta is None:
        return "it has not run"
    if meta.data != shards.target.data or meta.split != shards.target.split:
        return f"it was asked about another {shards.target.split} than is prepared here"
    if others := sum(key not in images for key in stored):
        return f"it holds {counted(others, 'answer')} to rows that are not its own"
    if unanswered := [image for key, image in images.items() if key not in stored]:
        return f"{len(unanswered):,} of {counted(len(images), 'row')} have no answer, such as {unanswered[0]}"
    return ""


def _missing_hint(shards: Shards, numbers: Sequence[int]) -> str:
    commands = [
        shlex.join(["vlmdet", "infer", "--split", shards.target.split, "--shard", f"{number}/{shards.count}"])
        for number in numbers[:4]
    ]
    rest = f" … for {len(numbers)} shards" if len(numbers) > 4 else ""
    return f"Run `{'; '.join(commands)}`{rest}, with the options of the other shards."
