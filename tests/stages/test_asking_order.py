"""Rows of like length are asked together, long ones first, and prompts about a picture stay together."""

import msgspec
import pytest

from vlmdet_cli.engines.infer_rows import InferRow
from vlmdet_cli.models import registry
from vlmdet_cli.stages.inference.asking_order import asking_order

SIZES = {"large": (2000, 2000), "small": (280, 280), "odd": (1, 9000), "strip": (20000, 1), "unknown": (0, 0)}


def row(name: str, prompt: str = "x" * 40, crop: tuple[int, int, int, int] | None = None) -> InferRow:
    return InferRow(image=name, path=name, prompt=prompt, size=SIZES[name], crop=crop)


def order(rows: dict[str, InferRow], max_pixels: int | None = None, family: str = "qwen2_vl") -> list[str]:
    return asking_order(rows, rows, registry.get(family), max_pixels)


def test_large_pictures_come_first_and_equal_ones_in_their_own_order() -> None:
    rows = {"a": row("small"), "b": row("large"), "c": row("small"), "d": row("large"), "e": row("small", "y" * 44)}
    assert order(rows) == ["b", "d", "a", "c", "e"]


def test_prompts_of_like_length_about_a_picture_come_together() -> None:
    names = {"a": "x" * 80, "b": "y" * 80}
    rows = {f"{kind}{name}": row("small", text) for kind, text in names.items() for name in "123"}
    rows = {key: msgspec.structs.replace(value, path=key[1]) for key, value in rows.items()}
    assert order(rows) == ["a1", "b1", "a2", "b2", "a3", "b3"]


def test_prompts_no_longer_than_their_picture_come_together_whatever_their_length() -> None:
    rows = {"a1": row("small"), "b1": row("small"), "a2": row("small", "y" * 300), "b2": row("small", "y" * 300)}
    rows = {key: msgspec.structs.replace(value, path=key[0]) for key, value in rows.items()}
    assert order(rows) == ["a1", "a2", "b1", "b2"]  # a picture of 280 x 280 pixels has 100 tokens


def test_pictures_that_are_shrunk_to_the_same_size_count_as_equal() -> None:
    large = msgspec.structs.replace(row("large"), path="z")
    rows = {"a": row("small"), "b": large, "c": row("small")}
    assert order(rows, 280 * 280) == ["a", "c", "b"]  # by name
    assert order(rows) == ["b", "a", "c"]


def test_the_length_of_a_long_prompt_and_of_a_crop_counts() -> None:
    part = msgspec.structs.replace(row("large", crop=(0, 0, 280, 280)), path="z")
    rows = {"a": row("small"), "b": row("small", "x" * 4000), "c": part}
    assert order(rows) == ["b", "a", "c"]


@pytest.mark.parametrize("family", [*registry.names(), "other"])
def test_odd_and_unknown_sizes_and_no_rows_have_an_order(family: str) -> None:
    rows = {name: row(name) for name in SIZES}
    assert sorted(order(rows, family=family)) == sorted(SIZES)
    assert order({}) == []


def test_the_rest_of_a_stopped_inference_is_asked_in_the_order_of_the_whole() -> None:
    prompts = ("x", "y" * 90, "z" * 500)
    rows = {
        f"{number}{prompt[0]}": msgspec.structs.replace(row("small", prompt), path=str(number * 7 % 5))
        for prompt in prompts for number in range(5)
    }  # fmt: skip
    whole = order(rows)
    for asked in range(len(whole)):
        rest = [key for key in rows if key not in whole[:asked]]
        assert asking_order(rest, rows, registry.get("qwen2_vl"), None) == whole[asked:]
