"""Engines by name: a new one is a module, its options and a line."""

from pathlib import Path

import pytest

from vlmdet_cli import engines
from vlmdet_cli.engines.settings import Infer, TransformersOptions, VLLMOptions
from vlmdet_cli.errors import UsageError
from vlmdet_cli.models.paligemma import PALIGEMMA
from vlmdet_cli.models.qwen2_vl import QWEN2_VL
from vlmdet_cli.project import convert


def settings() -> engines.EngineSettings:
    return engines.EngineSettings(model=Path("nowhere"), family=QWEN2_VL, options=TransformersOptions())


@pytest.mark.parametrize("name", engines.names())
def test_every_engine_is_created_without_a_model_at_hand(name: str) -> None:
    engine = engines.create(name, settings())
    assert callable(engine.answer)
    if name not in {"server", "vllm"}:  # their identity is what the server says, and vLLM's version
        assert engine.identity()["name"] == name


def test_an_unknown_engine_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError) as caught:
        engines.create("transformer", settings())
    assert caught.value.what == "No such engine: transformer: did you mean transformers?"
    assert caught.value.hint == f"Known engines: {', '.join(engines.names())}."


def test_an_engine_that_cannot_answer_for_a_family_is_refused_with_those_that_can() -> None:
    given = engines.EngineSettings(model=Path("nowhere"), family=PALIGEMMA, options=TransformersOptions())
    with pytest.raises(UsageError) as caught:
        engines.create("vllm", given)
    assert caught.value.what == "The engine vllm cannot answer for paligemma"
    others = [name for name in engines.names() if name != "vllm"]
    assert caught.value.hint == f"Engines that can: {', '.join(others)}."


def test_an_engines_options_have_a_table_of_their_own() -> None:
    tree = {"project": {"output": "o"}, "data": {"train": {"annotations": "a"}},
            "infer": {"batch": 4, "device": "cpu", "transformers": {"dtype": "bfloat16"}}}  # fmt: skip
    infer = convert(tree).infer
    assert (infer.batch, infer.device) == (4, "cpu")
    assert infer.options("transformers") == TransformersOptions(dtype="bfloat16")
    with pytest.raises(UsageError) as caught:
        convert({**tree, "infer": {"transformers": {"dtyp": "auto"}}})
    assert caught.value.why == ("infer.transformers.dtyp: unknown key; did you mean dtype?",)


def test_the_path_of_another_python_starts_at_the_project_files_folder() -> None:
    def python(name: str) -> str:
        options = Infer(vllm=VLLMOptions(python=name)).options("vllm", Path("/project"))
        assert isinstance(options, VLLMOptions)
        return options.python

    assert python("env/bin/python") == "/project/env/bin/python"
    assert python("~/env/bin/python") == f"{Path.home()}/env/bin/python"
    assert (python("/env/bin/python"), python("python3.12"), python("")) == ("/env/bin/python", "python3.12", "")


def test_what_decides_the_texts_is_part_of_the_identity() -> None:
    plain = engines.create("transformers", settings()).identity()
    other = engines.EngineSettings(model=Path("nowhere"), family=QWEN2_VL, options=TransformersOptions(dtype="float16"))
    assert engines.create("transformers", other).identity() != plain


def test_an_engine_without_options_has_an_empty_table() -> None:
    assert not Infer().options("batch").__struct_fields__
