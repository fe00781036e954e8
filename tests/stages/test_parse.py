"""parse: one JSON line out for each line in."""

import json
from pathlib import Path

import pytest

from tests.conftest import Cli

CAT = "cat(100,200),(300,400)"


def test_each_line_gives_a_line_of_json(cli: Cli) -> None:
    lines = [
        CAT,
        json.dumps({"text": CAT, "size": [640, 480]}),
        json.dumps({"response": "Cat(1,2),(3,4)", "categories": ["cat"], "dialect": "qwen2_vl", "labels": "x"}),
        "",
        '{"a half',
    ]
    done = cli("parse", stdin="\n".join(lines) + "\n")
    assert (done.exit_code, done.stderr) == (0, "")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"object": {"cat": [[100, 200, 300, 400]]}, "problems": [], "health": "ok"},
        {"object": {"cat": [[64.0, 96.0, 192.0, 192.0]]}, "problems": [], "health": "ok"},
        {"object": {"cat": [[1, 2, 3, 4]]}, "problems": [], "health": "ok"},
        {"object": {}, "problems": [], "health": "empty"},
        {"object": {}, "problems": [{"kind": "unparsed", "text": '{"a half'}], "health": "unparsed"},
    ]


def test_size_and_categories_of_the_command_line_hold_for_all_lines_without_their_own(cli: Cli) -> None:
    Path("answers.txt").write_text(f"{CAT}\nufo(0,0),(500,500)\n")
    done = cli("parse", "answers.txt", "--size", "1000x500", "--category", "CAT")
    first, second = map(json.loads, done.stdout.splitlines())
    assert first == {"object": {"CAT": [[100.0, 100.0, 300.0, 200.0]]}, "problems": [], "health": "ok"}
    assert [problem["kind"] for problem in second["problems"]] == ["unknown_label"]


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "message"),
    [
        (("nope.txt",), "", 3, "error: Cannot read the answers: nope.txt\n  No such file or directory.\nhint: Check "
                               "the path.\n"),
        (("--size", "640"), "", 2, "error: Not a picture size: 640\nhint: A size is WIDTHxHEIGHT, such as 640x480.\n"),
        (("--dialect", "qwen2vl"), "", 2, "error: No such dialect: qwen2vl: did you mean qwen2_vl?\n"
         "hint: There are: qwen2_vl, qwen2_5_vl, qwen3_vl, internvl, paligemma, florence2, swift.\n"),
        ((), 'x\n{"a": 1}\n', 3, "error: Line 2 is no answer\n  It has neither `text` nor `response`.\nhint: A line is "
                                 "plain text, or an object with `text` or `response` and, if known, `size` and "
                                 "`categories`.\n"),
    ],
)  # fmt: skip
def test_wrong_input_is_an_error_with_its_exit_code(
    cli: Cli, arguments: tuple[str, ...], stdin: str, code: int, message: str
) -> None:
    done = cli("parse", *arguments, stdin=stdin)
    assert (done.exit_code, done.stderr) == (code, message)
