"""The command line: help, version, global options, what a command imports."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_console import ESCAPES, on_terminal
from tests.conftest import Cli, write_project
from vlmdet_cli import __version__
from vlmdet_cli.project import loading

HEAVY = ("torch", "transformers", "swift", "peft", "PIL", "pycocotools", "matplotlib")


def imported(*arguments: str, cwd: Path) -> tuple[int, set[str]]:
    """Exit code and the top-level modules that a command has imported by its end."""
    code = (
        "import sys,runpy,json\n"
        f"sys.argv = ['vlmdet', *{list(arguments)!r}]\n"
        "code = 0\n"
        "try: runpy.run_module('vlmdet_cli', run_name='__main__')\n"
        "except SystemExit as end: code = end.code or 0\n"
        "open('modules.json', 'w').write(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, check=False)
    return done.returncode, set(json.loads((cwd / "modules.json").read_text()))


def test_help_imports_nothing_heavy_and_no_stage(tmp_path: Path) -> None:
    code, modules = imported("--help", cwd=tmp_path)
    assert code == 0
    assert not modules & {*HEAVY, "numpy", "hotcoco", "filelock", "psutil"}


def test_eval_imports_neither_torch_nor_transformers_nor_swift(cli: Cli, tmp_path: Path) -> None:
    write_project(Path(), {"a.jpg": [("cat", (1, 2, 30, 40))]})
    Path("predictions.json").write_text('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.9}]')
    files = ("--truth", "annotations.json", "--predictions", "predictions.json")
    code, modules = imported("eval", *files, cwd=tmp_path)
    assert code == 0
    assert "hotcoco" in modules
    assert not modules & set(HEAVY)
    assert cli("eval", *files).exit_code == 0


def test_version_and_help_need_no_project(cli: Cli) -> None:
    assert cli("--version").stdout == f"vlmdet {__version__}\n"
    first, *others = cli("--version", "--verbose").stdout.splitlines()
    assert first == f"vlmdet {__version__}"
    assert {line.split()[0] for line in others} >= {"python", "system", "GPU", "torch", "ms-swift", "numpy", "typer"}
    refused = cli("-v")
    assert (refused.exit_code, "Missing command." in refused.stderr) == (2, True)
    text = cli("--help").stdout
    assert all(f" {name} " in text for name in ("prepare", "augment", "train", "merge", "infer", "eval", "viz"))
    assert max(map(len, text.splitlines())) <= 100
    assert "--fail-under" in cli("eval", "-h").stdout


def test_an_unknown_command_or_option_is_a_usage_error_on_stderr(cli: Cli) -> None:
    for arguments in (("prepar",), ("prepare", "--nope"), ("viz", "--limit", "0"), ("compare", "one.json")):
        done = cli(*arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr


def test_global_options_stand_before_or_after_the_command(cli: Cli) -> None:
    write_project(Path("mine"), {"a.jpg": [("cat", (1, 2, 30, 40))]})
    before = cli("--json", "-p", "mine", "prepare")
    after = cli("prepare", "--json", "-p", "mine")
    assert (before.exit_code, after.exit_code) == (0, 0)
    assert json.loads(before.stdout) == json.loads(after.stdout)


def test_the_later_project_file_wins_and_overrides_of_both_positions_add_up(cli: Cli) -> None:
    write_project(Path("mine"), {"a.jpg": [("cat", (1, 2, 30, 40))], "b.jpg": []})
    sets = ("--set", "subset.empty=1.0"), ("--set", "project.output=other")
    done = cli("-p", "gone", *sets[0], "prepare", "-p", "mine", *sets[1], "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["splits"]["train"]["pictures"] == 2
    assert Path("mine/other/data").is_dir()


def test_a_renamed_key_is_a_warning_on_stderr_and_in_doctor(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loading.RENAMED_KEYS, "subset.largest", "subset.max_objects")
    write_project(Path(), {"a.jpg": [("cat", (1, 2, 30, 40))]}, "[subset]\nlargest = 2\n")
    note = "the key subset.largest is now called subset.max_objects; rename it in the project file"
    done = cli("prepare", "--json")
    assert (done.exit_code, done.stderr) == (0, f"warning: {note}\n")
    assert json.loads(done.stdout)["splits"]["train"]["pictures"] == 1
    checks = {check["name"]: check for check in json.loads(cli("doctor", "--json").stdout)}
    assert (checks["project"]["state"], checks["project"]["hint"]) == ("warning", note)


@pytest.mark.parametrize("model", ["Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen3-VL-4B-Instruct"])
def test_show_and_parse_read_boxes_as_the_project_of_the_file_writes_them(cli: Cli, model: str) -> None:
    folder = Path("mine")
    folder.mkdir()
    write_project(folder, {"0.jpg": [("cat", (5, 6, 30, 40))]}, f'[train]\nmodel = "{model}"\n')
    assert cli("prepare", "-q", "-p", "mine").exit_code == 0
    rows = folder / "out/data/coco_final_train.jsonl"
    shown = json.loads(cli("show", str(rows), "--json").stdout)[0]
    assert (shown["problems"], len(shown["boxes"])) == ([], 1)
    assert shown["boxes"][0]["box"] == pytest.approx([5, 6, 35, 46], abs=0.5)
    (folder / "answer.txt").write_text(shown["answer"].replace("\n", ""))
    parsed = json.loads(cli("parse", "mine/answer.txt", "--size", "64x48").stdout)
    assert parsed["object"]["cat"] == [pytest.approx([5, 6, 35, 46], abs=0.5)]
    assert json.loads(cli("parse", "mine/answer.txt", "--dialect", "qwen2_vl").stdout)["health"] != "ok"
    assert json.loads(cli("parse", "mine/answer.txt", "-p", "mine").stdout)["health"] == "ok"


def shown_on_terminal(*arguments: str) -> str:
    """What a command shows on a terminal of 80 columns, without the moves of its bars."""
    return ESCAPES.sub("", on_terminal(arguments, Path(), {"NO_COLOR": "1"})).replace("\r\n", "\n")


def test_on_a_terminal_a_command_ends_with_the_one_that_comes_next(cli: Cli) -> None:
    folder = Path("mine")
    folder.mkdir()
    write_project(folder, {"0.jpg": [("cat", (5, 6, 30, 40))]})
    assert shown_on_terminal("prepare", "-p", "mine").endswith("\nnext        vlmdet augment -p mine\n")
    assert shown_on_terminal("augment", "-p", "mine").endswith("\nnext        vlmdet train -p mine\n")
    assert "next" not in shown_on_terminal("augment", "-p", "mine", "-q")
    assert "next" not in cli("augment", "-p", "mine").stderr  # no terminal


def test_eval_fits_a_screen_and_says_the_rest_in_full(cli: Cli) -> None:
    boxes = {f"class {n}": [[n, n, n + 9, n + 9]] for n in range(9)}
    Path("truth.json").write_text(json.dumps([{"image_path": "a.jpg", "object": boxes}]))
    Path("answers.json").write_text(json.dumps([{"image_path": "a.jpg", "object": {"class 0": [[0, 0, 9, 9]]}}]))
    short = cli("eval", "--truth", "truth.json", "--predictions", "answers.json").stdout
    full = cli("eval", "--truth", "truth.json", "--predictions", "answers.json", "--full").stdout
    assert len(short.splitlines()) <= 34
    assert "The 6 most frequent of 9" in short
    assert "errors      8 missed" in short
    assert "more        `vlmdet eval --full`" in short
    assert max(map(len, (line.rstrip() for line in short.splitlines()))) <= 60
    for title in ("By class", "By size", "Kinds of error", "ledger"):
        assert title in full
