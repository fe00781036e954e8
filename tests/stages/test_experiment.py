"""experiment: its plan, its table, and the whole of it on the demo with the real swift."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli, coco_document, vlmdet, write_project
from tests.project.test_run_folders import write_run
from vlmdet_cli.errors import EngineError
from vlmdet_cli.project import load, runs
from vlmdet_cli.project.experiments import Variant, variants
from vlmdet_cli.stages.experiments.experiment import project_of
from vlmdet_cli.stages.experiments.experiment_result import Outcome, summarize, t_interval

RANKS = "[experiments.rank]\ntrain.lora_rank = [8, 16]\n[experiments.few]\nsubset.pictures = 2\n"


def test_a_dry_run_lists_the_variants_with_their_settings_and_states(cli: Cli) -> None:
    write_project(Path(), {}, RANKS)
    write_run(Path("out/runs"), "rank-8", "failed")
    done = cli("experiment", "rank", "--seeds", "1", "--dry-run", "--json")
    assert done.exit_code == 0, done.stderr
    assert [row["settings"] for row in json.loads(done.stdout)] == [
        {"train.lora_rank": 8, "train.swift.seed": 1},
        {"train.lora_rank": 16, "train.swift.seed": 1},
    ]
    lines = [line.split() for line in cli("experiment", "--dry-run").stdout.splitlines()]
    assert ["rank-8", "failed", "train.lora_rank=8"] in lines
    assert ["few", "new", "subset.pictures=2"] in lines


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("", (), "The project file has no experiments"),
        (RANKS, ("ranks",), "No experiment ranks: did you mean rank?"),
        (RANKS, ("--split", "tset"), "No such split: tset"),
        ("[experiments.a]\ntrain.lora_rnk = 8\n", (), "The project file has a problem: vlmdet.toml"),
    ],
)
def test_wrong_names_are_told_before_anything_runs(
    cli: Cli, text: str, arguments: tuple[str, ...], message: str
) -> None:
    write_project(Path(), {}, text)
    done = cli("experiment", *arguments)
    assert (done.exit_code, done.stderr.splitlines()[0]) == (2, f"error: {message}")
    assert not Path("out").exists()


def test_variants_share_prepared_data_where_their_settings_of_it_are_the_same(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "qwen2_vl"}')
    more = f'{RANKS}[experiments.long]\ntrain.max_length = [64, 128]\n[train]\nmodel = "model"\n'
    project = load(write_project(tmp_path, {}, more))
    folders = {
        variant.name: project_of(project, variant).dataset for variant in variants(project.config.experiments, [])
    }
    assert folders["rank-8"] == folders["rank-16"]
    assert len({folders["rank-8"], folders["few"], folders["long-64"], folders["long-128"]}) == 4


def written_report(cli: Cli, name: str, boxes: list[list[float]]) -> str:
    """A report of ``eval`` over four pictures with a cat each; ``boxes`` are the predictions, a picture each."""
    pictures = {f"{number}.jpg": [("cat", (0, 0, 10, 10))] for number in range(4)}
    Path("truth.json").write_text(json.dumps(coco_document(pictures)))
    rows = [{"image_path": f"{number}.jpg", "object": {"cat": [box]}} for number, box in enumerate(boxes)]
    Path(f"{name}-boxes.json").write_text(json.dumps(rows))
    done = cli("eval", "--truth", "truth.json", "--predictions", f"{name}-boxes.json", "--json")
    Path(f"{name}.json").write_text(done.stdout)
    return f"{name}.json"


GOOD, BAD = [0.0, 0.0, 10.0, 10.0], [30.0, 30.0, 40.0, 40.0]


def outcome(tmp_path: Path, name: str, report: str, seed: int | None = None) -> Outcome:
    record = write_run(tmp_path / "runs", name, seconds=90.0, loss=0.5).record
    values = {"train.lora_rank": 8}
    variant = Variant(name=name, experiment="rank", values=values, seed=seed)
    return Outcome(variant, report=report, record=record, split="val")


def test_rows_have_paired_changes_to_the_first_and_a_failure_keeps_the_others(cli: Cli, tmp_path: Path) -> None:
    half, whole = written_report(cli, "half", [GOOD, GOOD, BAD, BAD]), written_report(cli, "whole", [GOOD] * 4)
    failed = Variant(name="c", experiment="c", values={})
    outcomes = [
        outcome(tmp_path, "a", half),
        outcome(tmp_path, "b", whole),
        Outcome(failed, error=EngineError("swift sft failed: exit code 1", why="no such flag")),
    ]
    result = summarize(outcomes)
    first, second, third = result.rows
    assert (first.f1, first.change, second.f1, second.change) == (0.5, None, 1.0, 0.5)
    assert second.change_interval is not None
    assert 0 <= second.change_interval[0] < 0.5 < second.change_interval[1] <= 1
    assert (third.state, third.f1, third.error) == ("failed", None, "swift sft failed: exit code 1\nno such flag")
    assert (result.exit_code, result.means, result.notes) == (4, [], [])


def test_where_the_first_failed_or_protocols_differ_a_note_says_what_changes_mean(cli: Cli, tmp_path: Path) -> None:
    half, whole = written_report(cli, "half", [GOOD, GOOD, BAD, BAD]), written_report(cli, "whole", [GOOD] * 4)
    failed = Outcome(Variant(name="x", experiment="x", values={}), error=EngineError("no"))
    notes = summarize([failed, outcome(tmp_path, "a", half), outcome(tmp_path, "b", whole)]).notes
    assert notes == ["changes are to a: x failed."]
    other = json.loads(Path(whole).read_text())
    other["protocol"]["prompt"] = "another"
    Path("other.json").write_text(json.dumps(other))
    result = summarize(
        [
            outcome(tmp_path, "c-seed1", half, 1),
            outcome(tmp_path, "d-seed1", "other.json", 1),
            outcome(tmp_path, "e-seed1", whole, 1),
        ]
    )
    assert [row.change for row in result.rows] == [None, None, 0.5]
    assert [mean.change for mean in result.means] == [None, None, 0.5]
    assert result.notes[0] == "no change is shown of d-seed1: the protocol differs."
    assert "prompt" in result.notes[1]


def test_means_over_seeds_have_students_interval_and_changes_seed_by_seed(cli: Cli, tmp_path: Path) -> None:
    half, most = written_report(cli, "half", [GOOD, GOOD, BAD, BAD]), written_report(cli, "most", [*[GOOD] * 3, BAD])
    whole = written_report(cli, "whole", [GOOD] * 4)
    result = summarize(
        [
            outcome(tmp_path, "a-seed1", half, 1),
            outcome(tmp_path, "a-seed2", most, 2),
            outcome(tmp_path, "b-seed1", most, 1),
            outcome(tmp_path, "b-seed2", whole, 2),
        ]
    )
    first, second = result.means
    assert (first.name, first.seeds, first.f1, first.change) == ("a", 2, 0.625, None)
    assert (second.name, second.f1, second.change) == ("b", 0.875, 0.25)
    assert second.change_interval == pytest.approx([0.25, 0.25])
    assert first.f1_interval == pytest.approx([0.625 - 12.706 * 0.125, 0.625 + 12.706 * 0.125])


def test_students_interval_of_a_known_sample() -> None:
    # mean 5, standard deviation sqrt(2.5), t(0.975, 4) = 2.776
    assert t_interval([3, 4, 5, 6, 7]) == pytest.approx([3.037, 6.963], abs=1e-3)
    assert t_interval([1.0]) is None


@pytest.mark.slow
@pytest.mark.skipif(find_spec("swift") is None, reason="needs the extra `train`")
def test_experiments_on_the_demo_are_trained_measured_compared_and_not_run_twice(tmp_path: Path) -> None:
    vlmdet(tmp_path, "init", "--demo", "demo")
    folder = tmp_path / "demo"
    settings = (
        "train.swift.max_steps=3", "subset.pictures=24", "subset.val_pictures=8", "subset.test_pictures=4",
        "infer.max_tokens=32", "infer.questions=false",
    )  # fmt: skip
    sets = [part for setting in settings for part in ("--set", setting)]
    with (folder / "vlmdet.toml").open("a") as file:
        file.write("[experiments.rank]\ntrain.lora_rank = [4, 8]\n[experiments.broken]\ntrain.swift.no_such_flag = 1\n")
        file.write("[experiments.tune.search]\ntrials = 1\n[experiments.tune.search.space]\ntrain.lora_rank = [2, 3]\n")

    def run(code: int, *more: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(vlmdet(folder, "experiment", *more, *sets, "--json", code=code).stdout)
        return document

    result = run(4)
    rows = result["rows"]
    assert [(row["name"], row["state"], row["split"], row["steps"]) for row in rows] == [
        ("rank-4", "done", "val", 3), ("rank-8", "done", "val", 3), ("broken", "failed", "", 0),
        ("tune-trial0", "done", "val", 3),
    ]  # fmt: skip
    assert "no_such_flag" in rows[2]["error"]
    assert result["best"] == {"tune": "tune-trial0"}
    assert rows[3]["settings"]["train.lora_rank"] in (2, 3)
    assert len(list((folder / "out" / "datasets").iterdir())) == 1
    both = [runs.find_run(folder / "out" / "runs", name) for name in ("rank-4", "rank-8")]
    assert [run.record.settings["train"]["lora_rank"] for run in both] == [4, 8]
    before = [(run.folder / "run.json").read_bytes() for run in both]
    again = run(0, "rank")
    assert [row["f1"] for row in again["rows"]] == [row["f1"] for row in rows[:2]]
    assert [(run.folder / "run.json").read_bytes() for run in both] == before
    # a run that the experiment would train otherwise now is not taken for its own
    sets += ["--set", "train.learning_rate=1e-4"]
    changed = run(2, "rank")["rows"][0]
    assert "train.learning_rate: 0.002 → 0.0001" in changed["error"]
    # other commands work on the data that the run was trained on
    vlmdet(folder, "infer", "--run", "rank-4", "--split", "test", *sets)
    report = json.loads(vlmdet(folder, "eval", "--run", "rank-4", "--split", "test", "--json").stdout)
    assert report["protocol"]["pictures"] == 4
