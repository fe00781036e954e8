"""infer.engine = "auto": which engine answers, by what is there."""

from pathlib import Path
from typing import Any

import pytest

from vlmdet_cli import engines
from vlmdet_cli.core import gpus
from vlmdet_cli.engines import choice
from vlmdet_cli.engines.choice import Situation, asks_server, choose, obstacle
from vlmdet_cli.engines.settings import Infer, ServerOptions, VLLMOptions
from vlmdet_cli.errors import UsageError
from vlmdet_cli.models.family import Family
from vlmdet_cli.models.other import OTHER
from vlmdet_cli.models.qwen2_vl import QWEN2_VL


def situation(family: Family = QWEN2_VL, **settings: Any) -> Situation:
    return Situation(Infer(**settings), family)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The packages that seem to be installed, on a machine without a GPU."""
    monkeypatch.setattr(gpus, "gpu_memory", list)
    names = {"torch", "torchvision", "transformers", "swift"}
    monkeypatch.setattr(choice, "find_spec", lambda name: Path() if name in names else None)
    return names


@pytest.mark.usefixtures("installed")
def test_a_known_family_is_asked_by_transformers_and_another_by_swift() -> None:
    assert Infer().engine == "auto"
    assert choose(situation()) == "transformers"
    assert choose(situation(OTHER)) == "swift"


def test_what_is_missing_is_named_and_auto_leaves_the_error_to_the_engine(installed: set[str]) -> None:
    assert obstacle("transformers", situation()) == ""
    installed.clear()
    assert obstacle("transformers", situation()) == "not installed: torch, torchvision, transformers"
    assert choose(situation()) == "transformers"
    assert choose(situation(OTHER)) == "swift"


def test_servers_come_first_where_their_urls_are_set(installed: set[str]) -> None:
    installed.add("openai")
    urls: dict[str, Any] = {"server": ServerOptions(urls=("http://gpu:8000/v1",))}
    assert choose(situation(**urls)) == "server"
    assert choose(situation(engine="transformers", **urls)) == "transformers"
    assert asks_server(Infer(engine="server"))
    assert not asks_server(Infer())
    assert choose(situation()) == "transformers"


def test_vllm_comes_before_transformers_where_it_and_a_gpu_are_there(
    installed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed.add("vllm")
    assert choose(situation()) == "transformers"
    monkeypatch.setattr(gpus, "gpu_memory", lambda: [141.0])
    assert choose(situation()) == "vllm"
    assert choose(situation()._replace(adapter=Path("checkpoint-1"))) == "transformers"
    installed.remove("vllm")
    assert choose(situation()) == "transformers"
    assert choose(situation(vllm=VLLMOptions(python="vllm-env/bin/python"))) == "vllm"


def test_an_engine_that_is_named_is_taken_as_it_is() -> None:
    assert choose(situation(engine="swift")) == "swift"
    assert choose(situation(engine="nonsense")) == "nonsense"  # refused where engines are created


def test_an_engine_that_needs_the_family_is_refused_for_a_model_without_one() -> None:
    with pytest.raises(UsageError) as caught:
        choose(situation(OTHER, engine="transformers"))
    assert caught.value.what == "The engine transformers cannot ask this model"
    assert caught.value.why == ("vlmdet has no module for the model's family",)
    assert choose(situation(OTHER, engine="swift")) == "swift"


def test_every_engine_is_a_candidate_once() -> None:
    assert sorted(candidate.engine for candidate in choice._CANDIDATES) == sorted(engines.names())
