"""The files of the shipped model against the code that makes them."""

from pathlib import Path

import pytest

from vlmdet_cli.demo import HERE, tiny
from vlmdet_cli.models.qwen2_vl import QWEN2_VL

pytest.importorskip("transformers", reason="needs the extra `train`")
pytestmark = pytest.mark.slow  # transformers takes seconds to import


def test_tokenizer_and_processor_are_those_that_ship(tmp_path: Path) -> None:
    tiny.build_processor(tiny.build_tokenizer()).save_pretrained(tmp_path)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert "tokenizer.json" in written
    assert "processor_config.json" in written
    for name, content in written.items():
        assert content == (HERE / "model" / name).read_bytes(), name


def test_the_chat_template_gives_the_familys_chat_form() -> None:
    processor = tiny.build_processor(tiny.build_tokenizer())
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": tiny.PROMPT}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert text == QWEN2_VL.request_text(tiny.PROMPT)
    assert tiny.request_text(tiny.PROMPT, 3).replace("<|image_pad|>" * 3, "<|image_pad|>") == text


def test_each_word_of_the_rows_is_a_single_token() -> None:
    tokenizer = tiny.build_tokenizer()
    words = ["Draw", " bounding", " objects", " box", " contains", " area"]
    assert [word for word in words if len(tokenizer.tokenize(word)) != 1] == []
