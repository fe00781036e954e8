"""The argument lists for swift: flags as text and back."""

import pytest

from vlmdet_cli.training import arguments


@pytest.mark.parametrize(
    ("version", "flag"),
    [((3, 12, 4), "train_type"), ((4, 0, 1), "tuner_type"), ((4, 6, 0), "tuner_type"), ((), "tuner_type")],
)
def test_the_tuner_flag_follows_swifts_version(version: tuple[int, ...], flag: str) -> None:
    assert arguments.tuner_flag(version) == flag


def test_flags_are_read_back_from_an_argument_list() -> None:
    words = arguments.as_arguments({"a": True, "b": [1, "x"], "c": 0.5, "d": "two words"})
    assert words == ["--a", "true", "--b", "1", "x", "--c", "0.5", "--d", "two words"]
    assert arguments.parse(words) == {"a": "true", "b": "1 x", "c": "0.5", "d": "two words"}
    assert arguments.parse(["stray", "--a=1", "--packing", "--rate", "-1"]) == {"a": "1", "packing": "", "rate": "-1"}
