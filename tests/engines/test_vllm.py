"""The engine vllm against a fake of vLLM that behaves badly, in real processes: what comes of each misbehaviour."""

import contextlib
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import picture
from vlmdet_cli.engines import Completion, EngineSettings, Request
from vlmdet_cli.engines.settings import VLLMOptions
from vlmdet_cli.engines.vllm.engine import VLLMEngine, generation_arguments, rank_environments
from vlmdet_cli.errors import EngineError, UsageError
from vlmdet_cli.models.qwen2_vl import Qwen2VLFamily

FAKE = Path(__file__).parent / "fake_vllm"
ROOT = Path(__file__).parents[2]


class Family(Qwen2VLFamily):
    end_tokens = ("<end>", "<none>")


@pytest.fixture(autouse=True)
def _fake_vllm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def engine(model: Path = Path("model"), *, scores: bool = False, stop_loops: int = 0, **options: Any) -> VLLMEngine:
    settings = EngineSettings(
        model=model, family=Family(), options=VLLMOptions(**options), scores=scores, stop_loops=stop_loops
    )
    return VLLMEngine(settings)


def requests(folder: Path, prompts: Iterable[str]) -> list[Request]:
    sizes = [(56, 28), (28, 84)]
    return [
        Request(key=str(number), image=picture(folder, f"{number}.png", sizes[number % 2]), prompt=f"<image>{prompt}")
        for number, prompt in enumerate(prompts)
    ]


def answered(engine: VLLMEngine, requests: Iterable[Request], max_tokens: int = 99) -> dict[str, Completion]:
    completions = list(engine.answer(requests, max_tokens))
    by_key = {completion.key: completion for completion in completions}
    assert len(by_key) == len(completions)
    return by_key


def test_each_request_is_answered_with_its_own_picture(tmp_path: Path) -> None:
    completions = answered(engine(), requests(tmp_path, ["a"] * 40))
    assert set(completions) == {str(number) for number in range(40)}
    family = Family()
    for key, completion in completions.items():
        width, height = family.trained_size([(56, 28), (28, 84)][int(key) % 2], None)
        assert completion.text == "<box>" + "cat" * (width // 28) + " at " + "dog" * (height // 28)
        assert (completion.finish, completion.tokens) == ("stop", [])
        assert completion.num_tokens == width // 28 + height // 28 + 3


def test_what_vllm_prints_disturbs_no_answer(tmp_path: Path) -> None:
    completions = answered(engine(), requests(tmp_path, ["print", "a", "print"]))
    assert {completion.finish for completion in completions.values()} == {"stop"}


def test_tokens_have_their_log_probabilities_and_the_limit_shows_in_the_finish(tmp_path: Path) -> None:
    (completion,) = answered(engine(scores=True), requests(tmp_path, ["a"]), 2).values()
    assert completion.finish == "length"
    assert completion.tokens == [("<box>", -0.5), ("cat", -0.5)]


def test_a_refused_request_and_a_bad_picture_are_recorded_and_the_others_answered(tmp_path: Path) -> None:
    asked = requests(tmp_path, ["a", "refuse", "b", "c"])
    asked[2].image.write_bytes(b"")
    completions = answered(engine(), asked)
    assert {key: completion.error for key, completion in completions.items()} == {
        "0": "", "1": "vLLM does not take it: The prompt is too long.", "2": "empty file", "3": ""
    }  # fmt: skip


def test_a_loop_of_boxes_is_stopped_and_what_only_repeats_a_word_is_answered_to_its_end(tmp_path: Path) -> None:
    prompts = ["loop", "stutter", "a"]
    completions = answered(engine(stop_loops=3), requests(tmp_path, prompts), 50)
    loop, stutter, plain = (completions[str(number)] for number in range(3))
    assert (loop.finish, loop.num_tokens) == ("loop", 4)
    assert (stutter.finish, stutter.text) == ("length", "!" * 50)
    assert plain.finish == "stop"
    completions = answered(engine(), requests(tmp_path, prompts), 50)
    assert (completions["0"].finish, completions["0"].num_tokens) == ("length", 50)


@pytest.mark.parametrize(
    ("prompt", "what", "why"),
    [
        ("kill", "vLLM's process failed: killed by signal 9 (SIGKILL)", "Loading"),
        ("break", "The engine vllm failed", "RuntimeError: The device has gone."),
    ],
)
def test_a_rank_that_fails_ends_the_engine_with_its_log_and_leaves_no_process(
    tmp_path: Path, prompt: str, what: str, why: str
) -> None:
    with pytest.raises(EngineError) as caught:
        answered(engine(data_parallel=2), requests(tmp_path, ["a"] * 9 + [prompt]))
    assert caught.value.what == what
    assert caught.value.why[0].startswith(why)
    log = Path(caught.value.why[-1].removeprefix("The whole log: "))
    assert "Loading" in log.read_text()
    assert caught.value.hint == "What is answered is kept: run the same command again."
    assert not workers(tmp_path)


def test_a_process_that_ends_well_before_its_time_is_a_failure_too(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        answered(engine(), requests(tmp_path, ["a", "leave"]))
    assert caught.value.what == "vLLM's process failed: exit code 0"


def test_a_model_that_does_not_load_is_named_with_the_first_error_and_the_logs_last_lines(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        answered(engine(tmp_path / "broken"), requests(tmp_path, ["a"]))
    assert caught.value.what == f"vLLM cannot load the model: {tmp_path}/broken"
    assert caught.value.why[0] == "ValueError: no weights"
    assert "RuntimeError: See root cause above." in caught.value.why


def test_an_answer_that_nobody_waits_for_ends_the_processes(tmp_path: Path) -> None:
    completions = engine(data_parallel=2).answer(requests(tmp_path, ["a"] * 30), 99)
    assert isinstance(completions, Generator)
    next(completions)
    assert len(workers(tmp_path)) >= 2
    completions.close()
    assert not workers(tmp_path)
    assert not list(tmp_path.glob("vlmdet-vllm-*"))


def test_vllm_is_started_once_and_ends_with_the_engine(tmp_path: Path) -> None:
    kept = engine()
    answered(kept, requests(tmp_path, ["a"] * 5))
    started = workers(tmp_path)
    assert started
    answered(kept, requests(tmp_path, ["a"] * 5))
    assert {process.pid for process in workers(tmp_path)} == {process.pid for process in started}
    del kept
    assert not workers(tmp_path)
    assert not list(tmp_path.glob("vlmdet-vllm-*"))


def workers(folder: Path) -> list[psutil.Process]:
    """The processes whose working folder lies in a test's folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and str(folder) in process.cwd():
                found.append(process)
    return found


def test_the_identity_has_the_version_and_what_decides_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = engine().identity()
    assert (identity["name"], identity["version"]) == ("vllm", "0.0.1")
    assert engine(dtype="float16").identity() != identity
    assert engine(data_parallel=2, gpu_memory_utilization=0.5).identity() == identity
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with pytest.raises(EngineError) as caught:
        engine().identity()
    assert caught.value.what == "vLLM is not installed"
    assert "infer.vllm.python" in caught.value.hint


def test_a_python_that_is_not_there_and_an_adapter_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        engine(python=str(tmp_path / "python")).identity()
    assert caught.value.what == f"No such program: {tmp_path}/python"
    settings = EngineSettings(model=Path("m"), family=Family(), options=VLLMOptions(), adapter=tmp_path)
    with pytest.raises(UsageError) as caught:
        VLLMEngine(settings).identity()
    assert caught.value.hint == "Merge it with `vlmdet merge` and ask the merged model."


def test_what_the_models_own_settings_change_in_a_greedy_answer_is_told_to_vllm(tmp_path: Path) -> None:
    assert generation_arguments(tmp_path) == {}
    (tmp_path / "generation_config.json").write_text(
        '{"repetition_penalty": 1.05, "temperature": 1e-06, "top_k": 1, "suppress_tokens": [12, 13]}'
    )
    assert generation_arguments(tmp_path) == {
        "repetition_penalty": 1.05, "logit_bias": [(12, -100.0), (13, -100.0)]
    }  # fmt: skip
    (completion,) = answered(engine(tmp_path), requests(tmp_path, ["a"])).values()
    assert completion.text.startswith("<box>")


def test_ranks_share_the_visible_gpus() -> None:
    def shares(visible: str, devices: int, **options: Any) -> list[str]:
        environment = {"CUDA_VISIBLE_DEVICES": visible} if visible else {}
        ranks = rank_environments(VLLMOptions(**options), environment, devices)
        return [rank.get("CUDA_VISIBLE_DEVICES", "") for rank in ranks]

    assert shares("", 4, data_parallel=2, tensor_parallel=2) == ["0,1", "2,3"]
    assert shares("3, 5,GPU-8", 3, data_parallel=2) == ["3", "5"]
    assert shares("", 0, data_parallel=2) == ["", ""]
    with pytest.raises(UsageError) as caught:
        shares("", 2, data_parallel=2, tensor_parallel=2)
    assert caught.value.what == "vLLM needs 4 GPUs, and 2 are visible"
