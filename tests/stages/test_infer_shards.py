"""Shards of an inference: every machine computes the same parts; together they are the whole, or it is said why not."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli, write_project
from tests.engines.fake_engine import FakeEngine
from tests.stages.test_infer_inputs import model_folder
from vlmdet_cli import engines
from vlmdet_cli.engines import EngineSettings
from vlmdet_cli.engines.answers import read_answers
from vlmdet_cli.engines.infer_rows import InferRow
from vlmdet_cli.stages.inference.infer_shards import shard_rows

PICTURES = 16  # half of them in the split test
FOLDER = Path("out/answers")
WHOLE = FOLDER / "base-test.jsonl"


@pytest.fixture
def engine(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A prepared project with questions and a model; the arguments of the fake engines that are created."""
    pictures = {f"{n}.jpg": [("cat", (n, 0, 9, 9)), ("dog", (20, n, 12, 20))] for n in range(PICTURES)}
    file = write_project(Path(), pictures)
    file.write_text(file.read_text().replace("test = 0.0", "test = 0.5"))
    model_folder(Path("base"))
    for command in ("prepare", "augment"):
        assert cli(command, "-q").exit_code == 0
    arguments: dict[str, Any] = {}

    def create(name: str, settings: EngineSettings) -> FakeEngine:
        del name, settings
        return FakeEngine(**arguments)

    monkeypatch.setattr(engines, "create", create)
    return arguments


def infer(cli: Cli, *options: str) -> dict[str, Any]:
    done = cli("infer", "--model", "base", "--json", *options)
    assert done.exit_code == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def refusal(cli: Cli, *options: str) -> tuple[int, str]:
    done = cli("infer", "--model", "base", *(options or ["--collect"]))
    assert done.stdout == ""
    return done.exit_code, done.stderr


def rows_of(shard: str) -> list[str]:
    number, _, count = shard.partition("/")
    return [f"{row.image} {row.prompt}" for row in read_answers(FOLDER / f"base-test.shard-{number}-of-{count}.jsonl")]


def files_of_the_whole() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in FOLDER.glob("base-test.*") if "shard" not in path.name}


@pytest.mark.parametrize("count", [1, 3, PICTURES])
def test_shards_answered_in_any_order_are_collected_to_the_bytes_of_a_single_inference(
    cli: Cli, engine: dict[str, Any], count: int
) -> None:
    del engine
    whole = infer(cli)
    expected = files_of_the_whole()
    assert set(expected) == {"base-test.jsonl", "base-test.detections.json", "base-test.meta.json"}
    for name in expected:
        (FOLDER / name).unlink()
    shards = [f"{number}/{count}" for number in range(count, 0, -1)]
    assert sum(infer(cli, "--shard", shard)["asked"] for shard in shards) == whole["rows"] > PICTURES
    result = infer(cli, "--collect")
    assert files_of_the_whole() == expected
    assert {**result, "shards": 0, "asked": whole["asked"], "seconds": whole["seconds"]} == whole
    assert (result["shards"], result["asked"]) == (count, 0)
    answered = Counter(row for shard in shards for row in rows_of(shard))
    assert set(answered.values()) == {1}


def test_a_picture_goes_with_all_its_rows_to_the_part_that_has_the_fewest() -> None:
    rows = [InferRow(image=f"{n}", path="", prompt="detect") for n in range(20)]
    rows += [InferRow(image=f"{n}", path="", prompt=f"question {q}") for n in range(0, 20, 3) for q in range(4)]
    for count in (1, 2, 3, 6):
        parts = [list(shard_rows(rows, (number, count))) for number in range(1, count + 1)]
        assert sorted(id(row) for part in parts for row in part) == sorted(map(id, rows))
        pictures = [{row.image for row in part} for part in parts]
        assert sum(map(len, pictures)) == 20
        assert max(map(len, parts)) - min(map(len, parts)) <= 5


def test_collecting_names_the_shards_and_rows_that_are_missing_and_writes_nothing(
    cli: Cli, engine: dict[str, Any]
) -> None:
    engine["until"] = 2
    assert cli("infer", "--model", "base", "--shard", "1/3").exit_code == 130
    engine["until"] = 99
    infer(cli, "--shard", "2/3")
    code, stderr = refusal(cli)
    assert code == 3
    assert stderr.startswith(
        f"error: The shards do not hold an answer to every row of the split test: {Path.cwd()}/out/answers\n"
    )
    lines = stderr.splitlines()
    assert lines[1].startswith("  Shard 1/3: ")
    answered = {row.split()[0] for row in rows_of("1/3") + rows_of("2/3")}
    rows = map(json.loads, Path("out/data/coco_final_test.jsonl").read_text().splitlines())
    missing = {row["images"][0] for row in rows} - answered
    assert lines[1].partition(" rows have no answer, such as ")[2] in missing
    assert int(lines[1].split()[2]) == int(lines[1].split()[4]) - 2
    assert lines[2] == "  Shard 3/3: it has not run"
    assert lines[3] == (
        "hint: Run `vlmdet infer --split test --shard 1/3; vlmdet infer --split test --shard 3/3`, with the options "
        "of the other shards."
    )
    assert files_of_the_whole() == {}
    for shard in ("1/3", "3/3"):
        infer(cli, "--shard", shard)
    assert infer(cli, "--collect")["finish"] == {"stop": infer(cli)["rows"]}


def test_without_any_shard_there_is_nothing_to_collect(cli: Cli, engine: dict[str, Any]) -> None:
    del engine
    assert refusal(cli) == (
        3,
        f"error: No shards to collect: {Path.cwd()}/out/answers\n"
        "hint: Run `vlmdet infer --split test --shard 1/N` to `--shard N/N` first.\n",
    )


def test_shards_of_two_models_are_not_put_together(cli: Cli, engine: dict[str, Any]) -> None:
    infer(cli, "--shard", "1/2")
    engine["weights"] = "others"
    infer(cli, "--shard", "2/2", "--set", "infer.max_tokens=50")
    code, stderr = refusal(cli)
    assert code == 3
    assert "  Shard 2/2 differs from shard 1/2 in engine.weights, max_tokens.\n" in stderr
    infer(cli, "--shard", "1/2", "--set", "infer.max_tokens=50")
    assert infer(cli, "--collect")["rows"] == len(rows_of("1/2")) + len(rows_of("2/2"))


def test_shards_that_answered_another_split_than_is_prepared_now_are_asked_again(
    cli: Cli, engine: dict[str, Any]
) -> None:
    del engine
    for shard in ("1/2", "2/2"):
        infer(cli, "--shard", shard)
    file = Path("annotations.json")
    file.write_text(file.read_text().replace('"cat"', '"tiger"'))
    assert cli("prepare", "-q").exit_code == 0
    assert cli("augment", "-q").exit_code == 0
    code, stderr = refusal(cli)
    assert code == 3
    assert "  Shard 1/2: it was asked about another test than is prepared here\n" in stderr
    for shard in ("1/2", "2/2"):
        infer(cli, "--shard", shard)
    infer(cli, "--collect")
    collected = files_of_the_whole()
    for name in collected:
        (FOLDER / name).unlink()
    infer(cli)
    assert files_of_the_whole() == collected
    assert b"tiger" in collected["base-test.jsonl"]


def test_shards_of_another_number_that_lie_there_are_heeded(cli: Cli, engine: dict[str, Any]) -> None:
    for shard in ("1/3", "1/2", "2/2"):
        infer(cli, "--shard", shard)
    assert infer(cli, "--collect")["shards"] == 2
    engine["weights"] = "others"
    for shard in ("1/3", "2/3", "3/3"):
        infer(cli, "--shard", shard)
    code, stderr = refusal(cli)
    assert code == 3
    assert "  Shard 1/3 differs from shard 1/2 in engine.weights.\n" in stderr
    for number in (1, 2):
        (FOLDER / f"base-test.shard-{number}-of-2.jsonl").unlink()
    result = infer(cli, "--collect")
    assert (result["shards"], result["set_aside"]) == (3, result["rows"])


def test_answers_that_were_copied_into_another_shard_are_noticed(cli: Cli, engine: dict[str, Any]) -> None:
    del engine
    for shard in ("1/2", "2/2"):
        infer(cli, "--shard", shard)
    first, second = (FOLDER / f"base-test.shard-{number}-of-2.jsonl" for number in (1, 2))
    second.write_bytes(second.read_bytes() + first.read_bytes().splitlines(keepends=True)[0])
    code, stderr = refusal(cli)
    assert code == 3
    assert "  Shard 2/2: it holds 1 answer to rows that are not its own\n" in stderr
    infer(cli, "--shard", "2/2")
    assert infer(cli, "--collect")["rows"] == len(rows_of("1/2")) + len(rows_of("2/2"))


def test_a_shard_is_of_a_prepared_split(cli: Cli, engine: dict[str, Any]) -> None:
    del engine
    for shard in ("3/2", "0/2", "2", "a/b", "-1/2"):
        code, stderr = refusal(cli, f"--shard={shard}")
        assert (code, stderr) == (2, f"error: No such shard: {shard}\nhint: Name it as I/N, from 1/N to N/N.\n")
    code, stderr = refusal(cli, "--shard", "1/2", "images/0.jpg")
    assert code == 2
    assert stderr.startswith("error: --shard takes no pictures and no --output\n")
    code, stderr = refusal(cli, "--collect", "--shard", "1/2")
    assert code == 2
    assert stderr.startswith("error: --collect takes no pictures, no --output and no --shard\n")
