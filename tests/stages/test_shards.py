"""Shards: parts of the pictures that are prepared apart; what is joined from them, and when."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tests.conftest import Boxes, Cli, write_project
from vlmdet_cli import project as projects
from vlmdet_cli.stages.data import shards
from vlmdet_cli.stages.data.prepare import read_split

PICTURES: dict[str, Boxes] = {f"{n}.jpg": [("cat", (n, n, 9, 9)), ("dog", (30, 5, 20, 9))] for n in range(30)}
QUESTIONS = "[augment]\nquestion_ratio = 100.0\n"  # no limit binds: shards together hold the rows of the whole


def write(pictures: dict[str, Boxes], text: str = "") -> None:
    """A project with a test split."""
    file = write_project(Path(), pictures, text)
    file.write_text(file.read_text().replace("test = 0.0", "test = 0.2"))


def run(cli: Cli, command: str, *options: str) -> Result:
    done = cli(command, *options)
    assert (done.exit_code, done.stderr) == (0, "")
    return done


def run_shards(cli: Cli, command: str, count: int) -> list[dict[str, Any]]:
    return [json.loads(run(cli, command, "--shard", f"{n}/{count}", "--json").stdout) for n in range(1, count + 1)]


def load() -> projects.Project:
    return projects.load(Path())


def contents(folder: str) -> dict[str, bytes]:
    """The joined or whole files of a project, by their path."""
    files = [*Path(folder, "data").rglob("*.json*"), *Path(folder, "augment").glob("*.json*")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.name[0] != "."}


def items(name: str, content: bytes) -> Any:
    """What a file holds, without the order of its rows."""
    if name.endswith(".jsonl"):
        return sorted(content.splitlines())
    document = json.loads(content)
    if isinstance(document, list):
        return sorted(map(json.dumps, document))
    return {
        key: sorted(map(json.dumps, value)) if isinstance(value, list) else value for key, value in document.items()
    }


def test_the_shards_joined_hold_what_an_unsharded_run_writes(cli: Cli) -> None:
    write(PICTURES, QUESTIONS)
    for command in ("prepare", "augment"):
        run(cli, command, "--set", "project.output=whole")
    prepared = run_shards(cli, "prepare", 3)
    run_shards(cli, "augment", 3)
    assert len(list(Path("out/data/subset/images/train").iterdir())) == 24
    shards.join(load())
    whole, joined = contents("whole"), contents("out")
    assert joined.keys() == whole.keys()
    assert joined["augment/train.jsonl"] == whole["augment/train.jsonl"]
    for name in joined.keys() - {"augment/ledger.json"}:
        assert items(name, joined[name]) == items(name, whole[name]), name
    ledgers = [json.loads(files["augment/ledger.json"]) for files in (whole, joined)]
    assert [ledger.pop("source") for ledger in ledgers]
    assert ledgers[0] == ledgers[1]
    for split in ("train", "test"):
        lines = [shard["splits"][split]["ledger"]["pictures"] for shard in prepared]
        assert {line["in"] for line in lines} == {sum(line["kept"] for line in lines)}


def test_eval_infer_and_train_take_the_joined_files(cli: Cli) -> None:
    write(PICTURES, QUESTIONS)
    run_shards(cli, "prepare", 2)
    assert not Path("out/data/subset/test.json").exists()
    done = run(cli, "eval", "--predictions", "out/shards/1-of-2/data/detections_test.json", "--json")
    assert json.loads(done.stdout)["overall"]["precision"] == 1.0
    assert 0 < json.loads(done.stdout)["overall"]["recall"] < 1.0  # the truth is that of both shards
    assert len(read_split(load(), "train").images) == 24
    run_shards(cli, "augment", 2)
    done = cli("train", "--dry-run")
    assert "out/augment/train.jsonl" in done.stdout
    assert len(Path("out/augment/train.jsonl").read_text().splitlines()) > 24


def test_missing_shards_are_named_with_the_command_to_run(cli: Cli) -> None:
    write(PICTURES)
    run(cli, "prepare", "--shard", "2/3")
    done = cli("eval", "--predictions", "out/shards/2-of-3/data/detections_test.json")
    assert (done.exit_code, done.stdout, done.stderr) == (
        2, "", "error: `prepare` has not run for 2 of 3 shards: 1/3, 3/3\n"
        "hint: Run `vlmdet prepare --shard 1/3; vlmdet prepare --shard 3/3` first.\n"
    )  # fmt: skip


def test_missing_and_outdated_questions_of_shards_are_named(cli: Cli) -> None:
    write(PICTURES)
    run_shards(cli, "prepare", 2)
    shards.join(load())  # no shard has questions: there are none to join
    run(cli, "augment", "--shard", "1/2")
    message = "error: `augment` has not run for 1 of 2 shards: {0}\nhint: Run `vlmdet augment --shard {0}` first.\n"
    assert cli("train", "--dry-run").stderr == message.format("2/2")
    run(cli, "augment", "--shard", "2/2")
    shards.join(load())
    for shard in ("1/2", "2/2"):
        run(cli, "prepare", "--shard", shard, "--set", "format.order=area")
    run(cli, "augment", "--shard", "2/2")
    assert cli("train", "--dry-run").stderr == message.format("1/2")


def test_a_shard_that_is_prepared_again_is_joined_again(cli: Cli) -> None:
    write(PICTURES)
    run_shards(cli, "prepare", 2)
    project = load()
    shards.join(project)
    before = project.rows("train").read_bytes()
    written = project.rows("train").stat().st_mtime_ns
    shards.join(project)
    assert project.rows("train").stat().st_mtime_ns == written  # nothing has changed, so nothing is written
    for shard in ("1/2", "2/2"):
        run(cli, "prepare", "--shard", shard, "--set", "format.order=area")
    shards.join(project)
    assert project.rows("train").read_bytes() != before


def test_shards_of_different_settings_are_not_joined(cli: Cli, tmp_path: Path) -> None:
    write(PICTURES)
    run(cli, "prepare", "--shard", "1/2")
    run(cli, "prepare", "--shard", "2/2", "--set", "subset.min_box_size=4")
    done = cli("augment")
    assert (done.exit_code, done.stderr) == (
        2, f"error: The shards were prepared from different settings: {tmp_path}/out/shards\n"
        "hint: Run `vlmdet prepare --shard` again for each of them.\n"
    )  # fmt: skip


def test_shards_of_different_numbers_are_not_joined(cli: Cli, tmp_path: Path) -> None:
    write(PICTURES)
    run(cli, "prepare", "--shard", "1/1")
    run(cli, "prepare", "--shard", "2/2")
    done = cli("augment")
    assert (done.exit_code, done.stderr) == (
        2, f"error: The project was prepared in shards of different numbers: {tmp_path}/out/shards\n"
        "  There are shards of 1 and of 2.\nhint: Remove the folders of the earlier run.\n"
    )  # fmt: skip


def test_prepare_of_the_whole_takes_the_place_of_shards(cli: Cli) -> None:
    write(PICTURES)
    run_shards(cli, "prepare", 2)
    run(cli, "prepare", "--set", "subset.pictures=5")
    assert not Path("out/shards").exists()
    assert len(read_split(load(), "train").images) == 5


def test_augment_of_the_whole_takes_the_place_of_the_questions_of_shards(cli: Cli) -> None:
    write(PICTURES)
    for command in ("prepare", "augment"):
        run_shards(cli, command, 2)
    run(cli, "augment", "--set", "augment.questions=['count']")
    shards.join(load())
    assert not Path("out/augment/fully-overlapped.json").exists()


def test_a_shard_without_pictures_is_prepared_augmented_and_joined(cli: Cli) -> None:
    write({f"{n}.jpg": [("cat", (n, n, 9, 9))] for n in range(5)})
    prepared = run_shards(cli, "prepare", 4)
    counts = [[shard["splits"][split]["pictures"] for shard in prepared] for split in ("train", "test")]
    assert [sum(of_split) for of_split in counts] == [4, 1]
    assert all(0 in of_split for of_split in counts)
    augmented = run_shards(cli, "augment", 4)
    assert sum(shard["ledger"]["train"]["count"]["in"] for shard in augmented) == 4
    shards.join(load())
    assert [len(read_split(load(), split).images) for split in ("train", "test")] == [4, 1]
    run(cli, "eval", "--predictions", "out/data/detections_test.json")


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "-1/3"])
def test_a_shard_that_cannot_be_is_a_usage_error(cli: Cli, shard: str) -> None:
    write_project(Path(), PICTURES)
    done = cli("prepare", "--shard", shard)
    assert (done.exit_code, done.stderr) == (
        2, f"error: No such shard: {shard}\nhint: Name it as I/N, from 1/N to N/N.\n"
    )  # fmt: skip


def test_a_shard_that_is_not_prepared_cannot_be_augmented(cli: Cli) -> None:
    write(PICTURES)
    run(cli, "prepare", "--shard", "1/2")
    done = cli("augment", "--shard", "2/2")
    assert done.exit_code == 2
    assert done.stderr.endswith("hint: Run `vlmdet prepare --shard 2/2` first.\n")
