"""augment: questions about counts and space for every prepared split, and the mixed train file.

For train: one JSON file a kind, and ``train.jsonl``, the detection rows and at most ``mix`` questions for each
of them, shuffled by seed. For val and test: ``questions_{split}.jsonl``, which ``infer`` asks and ``eval``
scores. A picture that admits no true question of a kind stands in the ledger with the reason.
"""

from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec

from vlmdet_cli import dialects, questions, runs
from vlmdet_cli.project import SPLITS, Project
from vlmdet_cli.questions import Refused
from vlmdet_cli.records import Ledger, Picture, Sample, lock, write_json, write_jsonl
from vlmdet_cli.stages.prepare import Progress, detection_rows, no_progress, project_pictures, read_split

FILES = {
    "count": "count.json",
    "full": "fully-overlapped.json",
    "partial": "partial-overlapped.json",
    "none": "non-overlapping.json",
}


class AugmentResult(msgspec.Struct, frozen=True, kw_only=True):
    train_file: str
    rows: dict[str, int]
    files: dict[str, str]
    ledger: dict[str, dict[str, dict[str, Any]]]


def augment(project: Project, progress: Progress = no_progress) -> AugmentResult:
    """Questions for every prepared split; train must be one of them."""
    read_split(project, "train")
    with lock(project.output / "augment"):
        ledgers = {split: _split(project, split, progress) for split in SPLITS if project.subset(split).is_file()}
    ledger: dict[str, dict[str, dict[str, Any]]] = {split: one.as_dict() for split, one in ledgers.items()}
    return AugmentResult(
        train_file=str(project.train_file),
        rows={name: line["kept"] for name, line in ledger["train"].items()},
        files={kind: str(project.train_file.parent / name) for kind, name in FILES.items()},
        ledger=ledger,
    )


def _split(project: Project, split: str, progress: Progress) -> Ledger:
    file, ledger = read_split(project, split), Ledger()
    pictures = project_pictures(project, split, file)
    asked = _ask_all(project, split, pictures, file.categories, ledger, progress)
    if split != "train":
        write_jsonl(project.questions(split), [sample.row() for samples in asked.values() for sample in samples])
        return ledger
    folder = project.train_file.parent
    for kind, name in FILES.items():
        write_json(folder / name, [sample.row() for sample in asked.get(kind, [])])
    rows = _mixed(
        project, detection_rows(project, pictures), [s for samples in asked.values() for s in samples], ledger
    )
    write_jsonl(project.train_file, rows)
    write_json(folder / "ledger.json", {"source": runs.fingerprint(project.rows("train")), **ledger.as_dict()})
    return ledger


def _ask_all(
    project: Project,
    split: str,
    pictures: Sequence[Picture],
    categories: Sequence[str],
    ledger: Ledger,
    progress: Progress,
) -> dict[str, list[Sample]]:
    """Samples by kind, in the pictures' order, within the quotas."""
    wanted = project.config.augment
    dialect, seed = dialects.get(project.config.format.dialect), project.config.project.seed
    out: dict[str, list[Sample]] = {}
    for kind in dict.fromkeys(wanted.questions):
        times = 1 if kind == "count" else wanted.per_picture
        found: list[tuple[int, Sample]] = []
        # with a quota the pictures are drawn by seed, so that not only the file's first ones are asked about
        for done, place in enumerate(
            _drawn(pictures, f"{seed}:{kind}") if wanted.per_kind else range(len(pictures)), 1
        ):
            asked = [questions.ask(kind, pictures[place], categories, dialect, seed, n) for n in range(times)]
            left = wanted.per_kind - len(found) if wanted.per_kind else times
            found += [(place, sample) for sample in _account(kind, asked, left, ledger)]
            if done % 100 == 0 or done == len(pictures):
                progress(f"{split}: {kind}", done, len(pictures))
        out[kind] = [sample for _, sample in sorted(found, key=lambda pair: pair[0])]
    return out


def _drawn(pictures: Sequence[Picture], seed: str) -> list[int]:
    places = list(range(len(pictures)))
    Random(seed).shuffle(places)  # noqa: S311  (a draw, no secret)
    return places


def _account(kind: str, asked: Sequence[Sample | Refused], left: int, ledger: Ledger) -> list[Sample]:
    """One picture's questions: at most ``left`` different ones; each of them is kept or dropped with a reason."""
    kept: list[Sample] = []
    for one in asked:
        if isinstance(one, Refused):
            ledger.drop(kind, one.reason)
        elif one in kept:
            ledger.drop(kind, "the same question again")
        elif len(kept) >= left:
            ledger.drop(kind, "over per_kind")
        else:
            kept.append(one)
    ledger.keep(kind, len(kept))
    return kept


def _mixed(project: Project, detection: list[Any], asked: Sequence[Sample], ledger: Ledger) -> list[Any]:
    """Detection rows and a draw of the questions, shuffled."""
    random = Random(f"{project.config.project.seed}:mix")  # noqa: S311  (a draw, no secret)
    most = int(project.config.augment.mix * len(detection) + 1e-9)
    drawn = random.sample(asked, min(most, len(asked)))
    rows = [*detection, *(sample.row() for sample in drawn)]
    random.shuffle(rows)
    ledger.keep("mixed rows", len(rows))
    ledger.drop("mixed rows", "over mix", len(asked) - len(drawn))
    return rows
