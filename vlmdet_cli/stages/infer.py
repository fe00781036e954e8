"""infer: ask a model, append its raw answers row by row, then parse them.

Answers go to ``answers/NAME.jsonl`` and stay for ever. A stopped run goes on where it was: a row that was cut
while being written is written again, a question that has its answer is not asked again. Beside the file lies
``NAME.meta.json``; answers of another model or prompt are kept under another name and the file starts anew.
A picture that cannot be read gets an answer with ``finish: error`` and the reason.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.core.answers import Answer, ParsedDetections
from vlmdet_cli.core.files import read_bytes, read_json, write_json
from vlmdet_cli.core.ledger import Ledger
from vlmdet_cli.core.locks import lock
from vlmdet_cli.core.rows import Kind
from vlmdet_cli.engines import Engine
from vlmdet_cli.errors import DataError
from vlmdet_cli.models import dialects

OnBatch = Callable[[int, int, float], None]


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One row to answer: what will stand in the answers file, and where the picture lies."""

    image: str
    path: Path
    prompt: str
    kind: Kind = "detection"
    image_id: int | str = ""
    size: tuple[int, int] = (0, 0)
    expected: str | None = None
    asked: list[str] | None = None


class InferSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to ask: ``identity`` says whose answers these are and in what dialect; ``max_pixels`` to what limit pictures
    are shrunk, 0 for none.
    """

    batch: int
    max_tokens: int
    dialect: str
    identity: dict[str, Any]
    max_pixels: int = 0


class InferResult(msgspec.Struct, frozen=True, kw_only=True):
    answers: str
    detections: str
    rows: int
    asked: int
    seconds: float
    finish: dict[str, int]
    health: dict[str, int]
    ledger: dict[str, dict[str, Any]]


def infer(
    asks: Sequence[Ask],
    engine: Callable[[], Engine],
    answers: Path,
    how: InferSettings,
    *,
    categories: Sequence[str] | None = None,
    on_batch: OnBatch = lambda _done, _total, _rate: None,
) -> InferResult:
    """Answer what is not answered yet; ``engine`` is called only if there is something to ask.

    Raises ``DataError`` where there is nothing to ask, and what the engine raises.
    """
    if not asks:
        raise DataError("No picture to ask about", hint="Name images, a folder, or a prepared split.")
    started = time.monotonic()
    with lock(answers.parent):
        have = have_before = _resume(asks, answers, how)
        if have < len(asks):
            with answers.open("ab") as file:
                for rows in _answered(asks[have:], engine(), how):
                    file.write(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
                    file.flush()
                    have += len(rows)
                    on_batch(have, len(asks), (have - have_before) / (time.monotonic() - started))
        return _result(answers, categories, asked=len(asks) - have_before, seconds=round(time.monotonic() - started, 1))


def _resume(asks: Sequence[Ask], answers: Path, how: InferSettings) -> int:
    """InferSettings many answers stand already. The file is cut back to whole batches, so that the rest is asked in the same
    company as in an undisturbed run; answers of another model or other questions are put aside.
    """
    meta = answers.with_suffix(".meta.json")
    lines = answers.read_bytes().splitlines(keepends=True) if answers.is_file() else []
    rows = [row for line in lines if line.endswith(b"\n") and (row := _decoded(line)) is not None]
    same = not lines or (meta.is_file() and read_json(meta, "account of the answers") == how.identity)
    in_step = len(rows) <= len(asks) and all(
        a.image == r.image and a.prompt == r.prompt for a, r in zip(asks, rows, strict=False)
    )
    if not (same and in_step):
        _put_aside(answers)
        rows = []
    write_json(meta, how.identity)
    keep = len(rows) if len(rows) == len(asks) else len(rows) // how.batch * how.batch
    if lines and answers.is_file():
        with answers.open("r+b") as file:
            file.truncate(sum(map(len, lines[:keep])))
    return keep


def _decoded(line: bytes) -> Answer | None:
    try:
        return msgspec.json.decode(line, type=Answer)
    except msgspec.DecodeError:
        return None


def _put_aside(answers: Path) -> None:
    """Keep old answers under the next free number."""
    number = next(n for n in range(1, 1_000_000) if not answers.with_suffix(f".{n}.jsonl").exists())
    answers.rename(answers.with_suffix(f".{number}.jsonl"))


def _answered(asks: Sequence[Ask], engine: Engine, how: InferSettings) -> Iterator[list[Answer]]:
    """Answers batch by batch; the next batch's pictures are read while this one is answered."""
    batches = [asks[start : start + how.batch] for start in range(0, len(asks), how.batch)]
    with ThreadPoolExecutor(max_workers=2) as pool:
        waiting = [pool.submit(engine.load, one.path) for one in batches[0]]
        for number, group in enumerate(batches):
            loading = waiting
            following = batches[number + 1] if number + 1 < len(batches) else ()
            waiting = [pool.submit(engine.load, one.path) for one in following]
            yield _answer_batch(group, loading, engine, how)


def _answer_batch(
    group: Sequence[Ask], loading: Sequence["Future[Any]"], engine: Engine, how: InferSettings
) -> list[Answer]:
    rows: list[Answer | None] = []
    ready: list[tuple[Any, str]] = []
    for ask, future in zip(group, loading, strict=True):
        try:
            ready.append((future.result(), ask.prompt.replace("<image>", "")))
            rows.append(None)
        except Exception as error:  # any decoder's complaint about one picture; the others go on
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            rows.append(_answer(ask, how, finish="error", error=reason))
    replies = iter(engine.answer(ready, how.max_tokens) if ready else ())
    return [
        row or _answer(ask, how, **msgspec.structs.asdict(next(replies))) for row, ask in zip(rows, group, strict=True)
    ]


def _answer(ask: Ask, how: InferSettings, **values: Any) -> Answer:
    size = ask.size if any(ask.size) or values["finish"] == "error" else _size(ask.path)
    known = {name: getattr(ask, name) for name in ("image", "image_id", "kind", "prompt", "expected", "asked")}
    return Answer(**known, size=size, dialect=how.dialect, max_pixels=how.max_pixels, **values)


def _size(path: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(path) as opened:
        return (opened.width, opened.height)


def _result(answers: Path, categories: Sequence[str] | None, *, asked: int, seconds: float) -> InferResult:
    rows = [row for line in read_bytes(answers, "answers file").splitlines() if (row := _decoded(line)) is not None]
    health, ledger = Counter[str](), Ledger()
    found: dict[str, dict[str, list[list[float]]]] = {}
    for row in rows:
        ledger.keep("rows") if row.finish != "error" else ledger.drop("rows", "picture could not be read")
        if row.kind == "detection":
            parsed = parse(row, categories)
            health["error" if row.finish == "error" else parsed.health] += 1
            objects = found.setdefault(row.image, {})
            for label, boxes in parsed.by_label().items():
                objects[label] = objects.get(label, []) + boxes
    detections = answers.with_suffix(".detections.json")
    write_json(detections, [{"image_path": image, "object": objects} for image, objects in found.items()])
    return InferResult(
        answers=str(answers),
        detections=str(detections),
        rows=len(rows),
        asked=asked,
        seconds=seconds,
        finish=dict(Counter(row.finish for row in rows)),
        health=dict(health),
        ledger=ledger.as_dict(),
    )


def parse(answer: Answer, categories: Sequence[str] | None = None) -> ParsedDetections:
    """What an answer means, in pixels of its picture."""
    if answer.finish == "error":
        return ParsedDetections((), (), "empty")
    size = answer.size if all(answer.size) else None
    return dialects.get(answer.dialect, answer.max_pixels or None).parse(answer.text, size, categories, answer.tokens)
