"""doctor --engines: each engine that is here is asked the same, and the first difference is shown."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli, picture, write_project
from tests.engines.fake_engine import FakeEngine
from vlmdet_cli import engines
from vlmdet_cli.engines import Completion, EngineSettings, Request
from vlmdet_cli.errors import EngineError
from vlmdet_cli.stages.inference import engine_parity
from vlmdet_cli.stages.inference.engine_parity import spread


class Failing(FakeEngine):
    def answer(self, requests: Iterable[Request], max_tokens: int) -> Iterator[Completion]:
        del requests, max_tokens
        raise EngineError("The engine failed", why=["a log's first line", "It is broken.", "The whole log: l"])


class Stripping(FakeEngine):
    """Answers as others do, without special tokens in the last answer."""

    def _completion(self, request: Request, max_tokens: int) -> Completion:
        completion = super()._completion(request, max_tokens)
        stripped = re.sub(r"<[^>]*>", "", completion.text)
        return Completion(key=completion.key, text=stripped if request.image.name == "c.jpg" else completion.text)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The engines that seem to be installed, by name."""
    by_name: dict[str, Any] = {"transformers": FakeEngine, "swift": FakeEngine}
    obstacle = lambda name, _situation: "" if name in by_name else "not installed: it"  # noqa: E731
    monkeypatch.setattr(engine_parity, "obstacle", obstacle)

    def create(name: str, _settings: EngineSettings) -> FakeEngine:
        engine: FakeEngine = by_name[name](engine=name)
        return engine

    monkeypatch.setattr(engines, "create", create)
    return by_name


def compare(cli: Cli, *arguments: str, code: int = 0) -> dict[str, Any]:
    Path("m").mkdir(exist_ok=True)
    Path("m/config.json").write_text('{"model_type": "qwen2_vl"}')
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        picture(Path("p"), name)
    result = cli("doctor", "--engines", "--model", "m", "p", "--json", *arguments)
    assert result.exit_code == code, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def states(document: dict[str, Any]) -> dict[str, str]:
    return {engine["engine"]: engine["state"] for engine in document["engines"]}


@pytest.mark.usefixtures("here")
def test_engines_that_agree_have_a_share_of_one_and_absent_ones_do_no_harm(cli: Cli) -> None:
    document = compare(cli)
    assert (document["reference"], document["pictures"]) == ("transformers", 3)
    assert states(document) == {
        name: "answered" if name in {"transformers", "swift"} else "absent" for name in engines.names()
    }
    shares = [engine["share"] for engine in document["engines"] if engine["state"] == "answered"]
    assert shares == [1.0, 1.0]


def test_a_difference_is_shown_with_both_texts_and_its_likely_cause(cli: Cli, here: dict[str, Any]) -> None:
    here["swift"] = Stripping
    document = compare(cli, "--engine", "swift", "--engine", "transformers")
    (reference, swift) = document["engines"]
    assert (reference["engine"], swift["answers"], swift["equal"]) == ("transformers", 3, 2)
    assert swift["difference"]["image"].endswith("c.jpg")
    assert "special tokens are stripped" in swift["difference"]["cause"]
    shown = cli("doctor", "--engines", "--model", "m", "p").stdout
    assert "66.7%" in shown
    assert "swift differs" in shown
    assert "cat(0,0),(500," in shown


def test_an_engine_that_fails_gives_exit_code_1_and_the_others_go_on(cli: Cli, here: dict[str, Any]) -> None:
    here["transformers"] = Failing
    document = compare(cli, code=1)
    assert document["reference"] == "swift"
    assert document["engines"][0]["reason"] == "The engine failed\nIt is broken.\nThe whole log: l"


@pytest.mark.usefixtures("here")
def test_an_engine_that_is_named_must_be_here(cli: Cli) -> None:
    document = compare(cli, "--engine", "vllm", "--engine", "swift", code=1)
    assert states(document) == {"vllm": "failed", "swift": "answered"}


@pytest.mark.usefixtures("here")
def test_a_prepared_split_is_asked_at_equal_distances(cli: Cli) -> None:
    pictures = {f"{number}.jpg": [("cat", (0, 0, 9, 9))] for number in range(6)}
    write_project(Path(), pictures, '[infer]\nsplit = "train"\n')
    assert cli("prepare", "-q").exit_code == 0
    Path("m").mkdir()
    Path("m/config.json").write_text('{"model_type": "qwen2_vl"}')
    result = cli("doctor", "--engines", "--model", "m", "--pictures", "2", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["pictures"] == 2
    assert not list(Path("out").rglob("answers"))  # nothing is kept


def test_rows_are_spread_over_all() -> None:
    keys = [str(number) for number in range(10)]
    assert spread(keys, 3) == ["0", "3", "6"]
    assert spread(keys, 20) == keys


def test_wrong_use_is_refused(cli: Cli) -> None:
    assert "No such engine: swif: did you mean swift?" in cli("doctor", "--engine", "swif").stderr
    refused = cli("doctor", "--model", "m")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "A model and pictures are for --engines" in refused.stderr
