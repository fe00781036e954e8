"""The engine swift before it loads anything: what decides its texts, and what it needs. Its answers: ``tests/demo``."""

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vlmdet_cli.engines import EngineSettings, Request, SwiftModel, swift
from vlmdet_cli.engines.settings import SwiftOptions
from vlmdet_cli.errors import EngineError, UsageError
from vlmdet_cli.models.qwen2_vl import QWEN2_VL


def settings(**values: Any) -> EngineSettings:
    plain = {"model": Path("nowhere"), "family": QWEN2_VL, "options": SwiftOptions()}
    return EngineSettings(**{**plain, **values})


@pytest.mark.parametrize(
    "change",
    [
        {"options": SwiftOptions(dtype="bfloat16")},
        {"options": SwiftOptions(attention="eager")},
        {"swift": SwiftModel(model_type="qvq")},
        {"swift": SwiftModel(template="qvq")},
    ],
)
def test_what_decides_the_texts_is_part_of_the_identity(change: dict[str, Any]) -> None:
    identity = swift.SwiftEngine(settings()).identity()
    assert identity == swift.SwiftEngine(settings()).identity()
    assert swift.SwiftEngine(settings(**change)).identity() != identity


def test_a_plug_in_counts_by_its_content(tmp_path: Path) -> None:
    plugins = [tmp_path / name for name in ("a.py", "b.py", "c.py")]
    for path, text in zip(plugins, ("X = 1", "X = 1", "X = 2"), strict=True):
        path.write_text(text)
    identities = [swift.SwiftEngine(settings(swift=SwiftModel(plugins=(path,)))).identity() for path in plugins]
    assert identities[0] == identities[1] != identities[2]


def test_an_adapter_beside_a_whole_vision_tower_is_not_asked_alone(tmp_path: Path) -> None:
    (tmp_path / "vit.safetensors").touch()
    with pytest.raises(UsageError, match="The engine swift would leave a part of the training out: "):
        swift.SwiftEngine(settings(adapter=tmp_path)).identity()


class ShortModel:
    """Stands for swift's engine on a model of little length and memory; it knows prompts alone."""

    def __init__(self, memory: int = 99) -> None:
        self.batches: list[int] = []
        self._memory = memory

    def infer(self, requests: Sequence[Any], _config: Any, **_: Any) -> list[Any]:
        self.batches.append(len(requests))
        if len(requests) > self._memory:
            raise MemoryError
        if any("long" in request for request in requests):
            raise ValueError("Input length (9) leaves no room for generation with max_model_len (8).")
        return [ArithmeticError("no such picture") if "odd" in request else answer(request) for request in requests]


def answer(text: str) -> Any:
    choice = SimpleNamespace(
        token_ids=[1, 2], finish_reason="stop", logprobs=None, message=SimpleNamespace(content=f"of {text}")
    )
    return SimpleNamespace(choices=[choice])


def engine_with(model: ShortModel, batch: int) -> swift.SwiftEngine:
    """The engine with a loaded model whose requests are their prompts."""
    loaded: Any = object.__new__(swift.LoadedModel)
    loaded._settings, loaded._engine, loaded._config_type = settings(), model, SimpleNamespace
    loaded._request = lambda prompt, _picture: prompt
    loaded.template = SimpleNamespace(skip_stop_tokens=lambda ids: ids[:-1])
    loaded.read = lambda _request: None
    engine = swift.SwiftEngine(settings(batch=batch))
    engine._model = loaded
    return engine


def test_a_request_that_swift_refuses_is_recorded_and_the_others_are_answered() -> None:
    model, prompts = ShortModel(), ["a", "long", "odd", "b"]
    requests = [Request(key=prompt, image=Path(), prompt=prompt) for prompt in prompts]
    completions = {completion.key: completion for completion in engine_with(model, 4).answer(requests, 8)}
    assert {key: completion.finish for key, completion in completions.items()} == {
        "a": "stop", "long": "error", "odd": "error", "b": "stop"
    }  # fmt: skip
    assert completions["a"].text == "of a"
    assert completions["long"].error.startswith("swift refuses it: Input length (9) leaves no room")
    assert completions["odd"].error == "swift refuses it: no such picture"
    assert model.batches == [4, 1, 1, 1, 1]


def test_a_batch_that_does_not_fit_into_memory_is_halved() -> None:
    model = ShortModel(memory=2)
    requests = [Request(key=str(number), image=Path(), prompt="a") for number in range(4)]
    assert len(list(engine_with(model, 4).answer(requests, 8))) == 4
    assert model.batches == [4, 2, 2]


def test_a_missing_swift_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swift, "_version", lambda: "")
    with pytest.raises(EngineError) as caught:
        list(swift.SwiftEngine(settings()).answer([], 8))
    assert caught.value.what == "The engine swift needs ms-swift, which is not installed"
    assert "vlmdet[train]" in caught.value.hint


@pytest.mark.parametrize("level", [None, "DEBUG"])
def test_a_training_that_is_started_after_an_answer_logs_as_ever(
    level: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if level is None:
        monkeypatch.delenv("LOG_LEVEL", raising=False)
    else:
        monkeypatch.setenv("LOG_LEVEL", level)
    with swift._quiet():
        assert os.environ["LOG_LEVEL"] == (level or "ERROR")
    assert os.environ.get("LOG_LEVEL") == level
