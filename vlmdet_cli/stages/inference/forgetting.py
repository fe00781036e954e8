"""doctor --forgetting: what a training has unlearnt, by general questions that it was not trained on.

A run with ``train.replay`` keeps rows of that file that it was not trained on (``replay_held_out.jsonl``). Its base
model and its merged model answer them alike; an answer counts where it is the row's own, letter for letter. Short
answers suit that, long ones do not.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import orjson

from vlmdet_cli.core.files import open_file
from vlmdet_cli.data.image_files import upright_size
from vlmdet_cli.engines.infer_rows import InferRow
from vlmdet_cli.errors import UsageError
from vlmdet_cli.project import Project
from vlmdet_cli.project.runs import Run
from vlmdet_cli.stages.inference.infer_inputs import create_engine
from vlmdet_cli.stages.inference.infer_model import AskedAs, InferRequest, ModelChoice, asked_as, choose_model
from vlmdet_cli.stages.training.replay import HELD_OUT

Progress = Callable[[str, int, int], None]


class Forgetting(msgspec.Struct, frozen=True, kw_only=True):
    """``before`` and ``after``: answers of the base model and of the run's that are the rows' own, of ``rows``.

    ``lost`` were right before and are wrong now, ``gained`` the other way round. ``examples``: of the lost ones.
    """

    run: str
    base: str
    rows: int
    before: int
    after: int
    lost: int
    gained: int
    examples: list[dict[str, str]]


def forgetting(project: Project, name: str, on_progress: Progress = lambda _name, _done, _total: None) -> Forgetting:
    """Ask both models of the run ``name``. Raises ``UsageError`` where it has no rows held out or is not merged."""
    run = project.run(name)
    rows = list(_rows(run))
    tuned = choose_model(project, InferRequest(run=run.name), project.config.infer)
    asked = asked_as(project, tuned, project.config.infer)
    base = choose_model(project, InferRequest(model=run.record.trained.model), project.config.infer)
    expected = [row.expected or "" for row in rows]
    texts = [_texts(project, choice, asked, rows, on_progress) for choice in (base, tuned)]
    right = [[_same(*pair) for pair in zip(answers, expected, strict=True)] for answers in texts]
    lost = [number for number, (before, after) in enumerate(zip(*right, strict=True)) if before and not after]
    return Forgetting(
        run=run.name,
        base=base.name,
        rows=len(rows),
        before=sum(right[0]),
        after=sum(right[1]),
        lost=len(lost),
        gained=sum(after and not before for before, after in zip(*right, strict=True)),
        examples=[
            {"image": rows[n].image, "prompt": rows[n].prompt, "before": texts[0][n], "after": texts[1][n]}
            for n in lost[:3]
        ],
    )


def _rows(run: Run) -> Iterator[InferRow]:
    file = run.folder / HELD_OUT
    if not file.is_file():
        raise UsageError(
            f"The run has held out no general rows: {run.name}",
            why=f"There is no {file}.",
            hint="Train with train.replay, a file that has more rows than train.replay_ratio takes.",
        )
    with open_file(file, "rows held out") as lines:
        for row in map(orjson.loads, lines):
            path = row["images"][0]
            question, answer = (message["content"] for message in row["messages"])
            yield InferRow(image=path, path=path, prompt=question, size=upright_size(Path(path)), expected=answer)


def _texts(
    project: Project, choice: ModelChoice, asked: AskedAs, rows: list[InferRow], on_progress: Progress
) -> list[str]:
    engine = create_engine(project.config.infer, choice, asked, project.root)
    texts: dict[str, str] = {}
    requests = (row.request(str(number)) for number, row in enumerate(rows))
    for completion in engine.answer(requests, project.config.infer.max_tokens):
        texts[completion.key] = completion.text
        on_progress(Path(choice.name).name, len(texts), len(rows))
    return [texts[str(number)] for number in range(len(rows))]


def _same(text: str, expected: str) -> bool:
    return text.strip() == expected.strip()
