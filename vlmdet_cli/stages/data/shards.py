"""Shards: parts of the pictures that ``prepare`` and ``augment`` work on apart, joined to the files of the whole.

    out/shards/2-of-3/data/      subset/, detections_SPLIT.json, coco_final_SPLIT.jsonl; shard.json, written last
                      augment/   questions_SPLIT.jsonl, count.json, …, train.jsonl; ledger.json, written last
               joined.json       the sizes and times of the shard files that the whole files were joined from

Commands that need the whole call ``join``, which joins again where a shard has changed. The joined files hold the rows
of an unsharded run: ``train.jsonl`` in the same order, all others shard by shard. The limits ``augment.per_kind`` and
``augment.question_ratio`` hold in each shard. ``prepare`` without a shard removes all shards: they are outdated.
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.core.files import file_hash, read_json, whole_file, write_json
from vlmdet_cli.core.ledger import Ledger
from vlmdet_cli.errors import DataError, UsageError
from vlmdet_cli.project import SPLITS, Project
from vlmdet_cli.stages.data.question_rows import KIND_FILES, row_hashes, shuffled, write_rows

State = dict[str, tuple[int, int]]  # a file's path to its size and its time of change


def mark_prepared(project: Project) -> None:
    """State that the project's shard is complete, and from which settings. Does nothing without a shard."""
    if project.shard is not None:
        write_json(_mark(project), {"settings": settings_hash(project)})


def forget(project: Project) -> None:
    """Before ``prepare`` replaces files: the shard is not complete. Without a shard, all shards are removed."""
    if project.shard is not None:
        _mark(project).unlink(missing_ok=True)
    else:
        shutil.rmtree(_folder(project), ignore_errors=True)


def forget_questions(project: Project) -> None:
    """Before ``augment`` replaces files: the shard has no questions. Without a shard, no shard has any."""
    for shard in [project] if project.shard is not None else _shards(project):
        _questions_ledger(shard).unlink(missing_ok=True)


def join(project: Project, *, questions: bool = True) -> None:
    """Make the files of the whole from those of its shards, where there are shards; with ``questions`` augment's, too.

    Raises ``UsageError``, which names the commands to run, where shards are missing.
    """
    shards = [] if project.shard is not None else _shards(project)
    if not shards:
        return
    _require(shards, "prepare", lambda shard: _mark(shard).is_file())
    _require_same_settings(shards)
    splits = [split for split in SPLITS if shards[0].subset(split).is_file()]
    _join_changed(project, shards, "data", lambda: _join_prepared(project, shards, splits), _prepared_files(splits))
    if questions and any(_questions_ledger(shard).is_file() for shard in shards):
        _require(shards, "augment", _has_own_questions)
        files = _question_files(splits)
        _join_changed(project, shards, "augment", lambda: _join_questions(project, shards, splits), files)


# --- which shards there are ----------------------------------------------------------------------------------


def _folder(project: Project) -> Path:
    return project.data_folder / "shards"


def _mark(shard: Project) -> Path:
    return shard.texts / "data" / "shard.json"


def _questions_ledger(shard: Project) -> Path:
    return shard.texts / "augment" / "ledger.json"


def _shards(project: Project) -> list[Project]:
    """The project of each shard; none where it was not prepared in shards."""
    counts = set[int]()
    for folder in _folder(project).glob("*-of-*"):
        _, _, count = folder.name.partition("-of-")
        counts |= {int(count)} if count.isdecimal() and int(count) else set()
    if len(counts) > 1:
        raise UsageError(
            f"The project was prepared in shards of different numbers: {_folder(project)}",
            why=f"There are shards of {' and of '.join(map(str, sorted(counts)))}.",
            hint="Remove the folders of the earlier run.",
        )
    return [
        Project(project.root, project.config, (number, count)) for count in counts for number in range(1, count + 1)
    ]


def _require(shards: Sequence[Project], command: str, is_done: Callable[[Project], bool]) -> None:
    missing = [f"{shard.shard[0]}/{shard.shard[1]}" for shard in shards if shard.shard and not is_done(shard)]
    if missing:
        raise UsageError(
            f"`{command}` has not run for {len(missing)} of {len(shards)} shards: {', '.join(missing)}",
            hint=f"Run `{'; '.join(f'vlmdet {command} --shard {shard}' for shard in missing)}` first.",
        )


def settings_hash(project: Project) -> str:
    """A hash of the settings that decide what ``prepare`` writes."""
    config = project.config
    data = msgspec.structs.replace(config.data, workers=0)
    settings = (config.project.seed, data, config.subset, config.format, config.train.model, config.train.max_length)
    return blake2b(msgspec.json.encode(settings), digest_size=16).hexdigest()


def _require_same_settings(shards: Sequence[Project]) -> None:
    if len({read_json(_mark(shard), "shard's mark")["settings"] for shard in shards}) > 1:
        raise UsageError(
            f"The shards were prepared from different settings: {_folder(shards[0])}",
            hint="Run `vlmdet prepare --shard` again for each of them.",
        )


def _has_own_questions(shard: Project) -> bool:
    """Whether ``augment`` has run for the shard's present rows."""
    ledger = _questions_ledger(shard)
    return ledger.is_file() and read_json(ledger, "account of augment").get("source") == file_hash(shard.rows("train"))


# --- joining -------------------------------------------------------------------------------------------------


def _prepared_files(splits: Iterable[str]) -> Callable[[Project], list[Path]]:
    return lambda project: [
        path for split in splits for path in (project.subset(split), project.detections(split), project.rows(split))
    ]


def _question_files(splits: Iterable[str]) -> Callable[[Project], list[Path]]:
    others = [split for split in splits if split != "train"]
    return lambda project: [project.train_file, *map(project.questions, others), _questions_ledger(project)]


def _join_changed(
    project: Project,
    shards: Sequence[Project],
    part: str,
    join_part: Callable[[], None],
    files: Callable[[Project], list[Path]],
) -> None:
    """Join a part where its shard files are not those that the present whole files were joined from."""
    record = _folder(project) / "joined.json"
    states: dict[str, State] = (
        msgspec.json.decode(record.read_bytes(), type=dict[str, State]) if record.is_file() else {}
    )
    state = {str(path.relative_to(project.data_folder)): _state(path) for shard in shards for path in files(shard)}
    if state == states.get(part) and all(path.is_file() for path in files(project)):
        return
    join_part()
    write_json(record, states | {part: state})


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _join_prepared(project: Project, shards: Sequence[Project], splits: Iterable[str]) -> None:
    for split in splits:
        _join_subsets([shard.subset(split) for shard in shards], project.subset(split))
        _join_lists([shard.detections(split) for shard in shards], project.detections(split))
        _join_lines([shard.rows(split) for shard in shards], project.rows(split))


def _join_questions(project: Project, shards: Sequence[Project], splits: Iterable[str]) -> None:
    for split in splits:
        if split != "train":
            _join_lines([shard.questions(split) for shard in shards], project.questions(split))
    for name in KIND_FILES.values():
        files = [shard.train_file.with_name(name) for shard in shards if shard.train_file.with_name(name).is_file()]
        if files:
            _join_lists(files, project.train_file.with_name(name))
        else:
            project.train_file.with_name(name).unlink(missing_ok=True)
    rows = [row for shard in shards for row in shard.train_file.read_bytes().splitlines()]
    write_rows(project.train_file, shuffled(rows, row_hashes(rows, project.config.project.seed)))
    ledgers = [read_json(_questions_ledger(shard), "account of augment") for shard in shards]
    write_json(_questions_ledger(project), {"source": file_hash(project.rows("train")), **_sum(ledgers)})


def _sum(ledgers: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    total = Ledger()
    for ledger in ledgers:
        for kind, line in ledger.items():
            if kind != "source":
                total.keep(kind, line["kept"])
                for reason, count in line["dropped"].items():
                    total.drop(kind, reason, count)
    return total.as_dict()


def _join_lines(files: Sequence[Path], target: Path) -> None:
    with whole_file(target) as temporary, temporary.open("wb") as joined:
        for file in files:
            with file.open("rb") as opened:
                shutil.copyfileobj(opened, joined)


def _join_lists(files: Sequence[Path], target: Path) -> None:
    """JSON lists as one."""
    with whole_file(target) as temporary:
        temporary.write_bytes(_one_list(file.read_bytes().rstrip() for file in files) + b"\n")


def _join_subsets(files: Sequence[Path], target: Path) -> None:
    """COCO files of the same categories as one."""
    documents = [msgspec.json.decode(file.read_bytes(), type=dict[str, msgspec.Raw]) for file in files]
    if len({bytes(document["categories"]) for document in documents}) > 1:
        raise DataError(
            f"The shards have different categories: {files[0]}",
            hint="Run `vlmdet prepare --shard` again for each of them, with the same annotations.",
        )
    shared = ("info", "categories")
    joined = {
        key: value if key in shared else msgspec.Raw(_one_list(bytes(document[key]) for document in documents))
        for key, value in documents[0].items()
    }
    with whole_file(target) as temporary:
        temporary.write_bytes(msgspec.json.encode(joined) + b"\n")


def _one_list(lists: Iterable[bytes]) -> bytes:
    """The texts of JSON lists as one list: their insides, joined by commas."""
    return b"[" + b",".join(inside for text in lists if (inside := text[1:-1].strip())) + b"]"
