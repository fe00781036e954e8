"""augment: the files of each kind, the mixed train file, quotas and the ledger."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.conftest import Cli, write_project
from vlmdet_cli.prompts import questions

PICTURES = {f"{n}.jpg": [("cat", (4 + n, 6, 20, 20)), ("dog", (36, 20, 20, 20))] for n in range(8)}


def load(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_the_files_and_the_mixed_shuffled_train_file(cli: Cli) -> None:
    write_project(Path(), {**PICTURES, "e.jpg": []})
    assert cli("prepare", "--set", "subset.empty=0.5").exit_code == 0
    done = cli("augment", "--json", "--set", "augment.question_ratio=2")
    assert (done.exit_code, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    kinds = {
        "count.json": "count", "fully-overlapped.json": "full",
        "partial-overlapped.json": "partial", "non-overlapping.json": "none",
    }  # fmt: skip
    for name, kind in kinds.items():
        rows = json.loads((Path("out/augment") / name).read_text())
        assert len(rows) == result["ledger"]["train"][kind]["kept"]
        assert {questions.kind_of(row["messages"][0]["content"]) for row in rows} == {kind}
    mixed = load("out/augment/train.jsonl")
    detection = load("out/data/coco_final_train.jsonl")
    kind_counts = Counter(questions.kind_of(row["messages"][0]["content"]) for row in mixed)
    assert kind_counts["detection"] == len(detection) == 9
    assert sum(kind_counts.values()) - 9 == 18
    assert [row for row in mixed if row in detection] != detection
    assert sorted(map(json.dumps, [row for row in mixed if row in detection])) == sorted(map(json.dumps, detection))


def test_quotas_hold_and_the_ledger_adds_up(cli: Cli) -> None:
    write_project(Path(), {**PICTURES, "e.jpg": []})
    assert cli("prepare", "--set", "subset.empty=0.5").exit_code == 0
    sets = ("--set", "augment.per_kind=5", "--set", "augment.per_picture=2")
    ledger = json.loads(cli("augment", "--json", *sets).stdout)["ledger"]["train"]
    for kind, asked in (("count", 9), ("full", 18), ("partial", 18), ("none", 18)):
        line = ledger[kind]
        assert (line["in"], line["kept"]) == (asked, 5), kind
        assert line["in"] == line["kept"] + sum(line["dropped"].values())
    assert ledger["full"]["dropped"]["no object"] == 2


def test_a_table_limits_the_kinds_that_it_names(cli: Cli) -> None:
    write_project(Path(), PICTURES)
    assert cli("prepare").exit_code == 0
    rows = json.loads(cli("augment", "--json").stdout)["rows"]
    assert min(rows[kind] for kind in ("count", "full", "partial", "none")) > 3
    limited = json.loads(cli("augment", "--json", "--set", "augment.per_kind={none=3, full=2}").stdout)["rows"]
    assert limited == {**rows, "none": 3, "full": 2, "mixed rows": limited["mixed rows"]}
    wrong = cli("augment", "--set", "augment.per_kind={nothing=3}")
    assert wrong.exit_code == 2
    assert "augment.per_kind" in wrong.stderr


def test_the_same_seed_gives_the_same_bytes(cli: Cli) -> None:
    write_project(Path(), PICTURES)
    assert cli("prepare").exit_code == 0

    def augmented(seed: int) -> dict[str, bytes]:
        assert cli("augment", "--set", f"project.seed={seed}").exit_code == 0
        return {path.name: path.read_bytes() for path in Path("out/augment").iterdir()}

    assert augmented(1) == augmented(1)
    assert augmented(1)["train.jsonl"] != augmented(2)["train.jsonl"]


def test_augment_before_prepare_says_what_to_do(cli: Cli, tmp_path: Path) -> None:
    write_project(Path(), PICTURES)
    done = cli("augment")
    assert (done.exit_code, done.stderr) == (
        2,
        f"error: The split train is not prepared: {tmp_path}/out/data/subset/train.json\n"
        "hint: Run `vlmdet prepare` first.\n",
    )


def test_rows_of_other_data_are_not_trained_on(cli: Cli, tmp_path: Path) -> None:
    write_project(Path(), PICTURES)
    assert cli("prepare").exit_code == cli("augment").exit_code == 0
    assert cli("prepare", "--set", "subset.pictures=3").exit_code == 0
    done = cli("train", "--dry-run")
    assert (done.exit_code, done.stdout, done.stderr) == (
        2,
        "",
        f"error: The augmented rows are of other data: {tmp_path}/out/augment/train.jsonl\n"
        "hint: Run `vlmdet augment` again.\n",
    )
