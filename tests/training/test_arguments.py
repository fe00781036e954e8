"""The argument lists for swift: flags as text and back."""

from pathlib import Path

import pytest

from vlmdet_cli.errors import UsageError
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


def test_the_system_prompt_is_read_as_swift_reads_it(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("From a file.\\n")
    assert arguments.read_system("Two\\nlines", tmp_path) == "Two\nlines"
    assert arguments.read_system("prompt.txt", tmp_path) == "From a file.\\n"
    assert arguments.absolute("system", "prompt.txt", tmp_path) == str(tmp_path / "prompt.txt")
    assert arguments.absolute("system", "x" * 5000, tmp_path) == "x" * 5000
    with pytest.raises(UsageError, match=r"Cannot read the system prompt: .*none\.txt"):
        arguments.read_system("none.txt", tmp_path)
