"""doctor --forgetting: what the base model and a run answer to general rows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli, picture, write_project
from tests.engines.fake_engine import FakeEngine
from tests.stages.test_infer_inputs import model_folder, trained_run
from tests.stages.test_train_levers import row, write_rows
from vlmdet_cli import engines
from vlmdet_cli.engines import Completion, EngineSettings
from vlmdet_cli.stages.training.replay import HELD_OUT

BASE = {"0": "A dog. ", "1": "Red", "2": "No"}
TUNED = {"0": "A dog.", "1": "cat(1,2),(3,4)", "2": "Two"}


class Scripted(FakeEngine):
    """Answers by the request's number."""

    def __init__(self, texts: dict[str, str]) -> None:
        super().__init__()
        self._texts = texts

    def answer(self, requests: Any, max_tokens: int) -> Iterator[Completion]:
        del max_tokens
        yield from (Completion(key=request.key, text=self._texts[request.key]) for request in reversed(list(requests)))


def test_answers_that_only_the_base_model_has_right_are_lost(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(Path(), {"a.jpg": [("cat", (4, 6, 20, 20))]})
    run = trained_run(Path("out"), "run-001")
    base = model_folder(tmp_path / "base")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "trained": {**record["trained"], "model": str(base)}}))

    def create(name: str, settings: EngineSettings) -> FakeEngine:
        del name
        return Scripted(BASE if settings.model == base else TUNED)

    monkeypatch.setattr(engines, "create", create)
    done = cli("doctor", "--forgetting", "run-001")
    assert (done.exit_code, done.stderr.splitlines()[0]) == (
        2,
        "error: The run has held out no general rows: run-001",
    )
    image = str(picture(tmp_path, "dog.png"))
    questions = [("<image>What is it?", "A dog."), ("What colour?", "Red"), ("<image>How many?", "Two")]
    write_rows(run / HELD_OUT, [row(*pair, image) for pair in questions])
    done = cli("doctor", "--forgetting", "run-001", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert (result["rows"], result["before"], result["after"], result["lost"], result["gained"]) == (3, 2, 2, 1, 1)
    assert result["examples"] == [
        {"image": image, "prompt": "What colour?", "before": "Red", "after": "cat(1,2),(3,4)"}
    ]
    shown = cli("doctor", "--forgetting", "run-001").stdout
    assert "1 that the base model had right; 1 gained" in shown
