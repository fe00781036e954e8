"""What swift's files say while it trains: the number of rows that it took, and its steps."""

import json
from pathlib import Path

import pytest

from vlmdet_cli.errors import EngineError
from vlmdet_cli.training.log_reader import RowCount, Silence, Step, Watcher, last_step

TOOK = "[INFO:swift] train_dataset: Dataset({{\n    features: ['messages'],\n    num_rows: {train}\n}})\n"
HELD = "[INFO:swift] val_dataset: Dataset({{\n    features: ['messages'],\n    num_rows: {val}\n}})\n"
NONE = "[INFO:swift] val_dataset: None\n"


def warnings_after(tmp_path: Path, *texts: str, rows: int = 10, must_match: bool = True) -> list[str]:
    """The warnings after swift has written one text after the other."""
    log, warnings = tmp_path / "swift.log", list[str]()
    count = RowCount(log, rows, warnings.append, must_match=must_match)
    count()
    for text in texts:
        with log.open("a") as file:
            file.write(text)
        count()
    return warnings


@pytest.mark.parametrize(
    "texts",
    [
        (TOOK.format(train=10) + NONE,),
        (TOOK.format(train=10)[:30], TOOK.format(train=10)[30:], NONE),
        (TOOK.format(train=8), HELD.format(val=2)),  # split off by swift itself
        (TOOK.format(train=10), HELD.format(val=4)),  # a validation set of its own
        ("another line\n",),
    ],
)
def test_there_is_no_warning_where_swift_took_all_rows(tmp_path: Path, texts: tuple[str, ...]) -> None:
    assert warnings_after(tmp_path, *texts) == []


def test_a_silent_swift_is_told_once_and_stopped_where_a_limit_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, now, warnings = tmp_path / "swift.log", [0.0], list[str]()
    monkeypatch.setattr("vlmdet_cli.training.log_reader.time.monotonic", lambda: now[0] * 60)
    silence = Silence(log, warnings.append, 30)

    def after(minutes: float, text: str = "") -> None:
        now[0] += minutes
        log.write_text((log.read_text() if log.is_file() else "") + text)
        silence()

    for minutes, text in ((19, ""), (0.5, "step\n"), (19, ""), (2, ""), (5, "")):
        after(minutes, text)
    assert warnings == [f"swift has written nothing for 20 minutes; it may hang. Its log: {log}"]
    with pytest.raises(EngineError, match="swift has written nothing for 30 minutes and was stopped"):
        after(4)
    silence = Silence(log, warnings.append, 0)
    after(0)
    after(9999)
    assert len(warnings) == 2


def test_rows_that_swift_left_out_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        warnings_after(tmp_path, "", TOOK.format(train=9) + NONE)
    assert caught.value.what == "swift took 9 of 10 rows"
    assert str(tmp_path / "swift.log") in caught.value.why[0]
    assert "train.rows_must_match" in caught.value.hint


def test_rows_left_out_are_one_warning_where_they_may_be(tmp_path: Path) -> None:
    warnings = warnings_after(tmp_path, TOOK.format(train=9) + NONE, "more\n", must_match=False)
    assert warnings == [f"swift took 9 of 10 rows; see its log: {tmp_path}/swift.log"]


def test_what_an_earlier_run_wrote_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "swift.log").write_text(TOOK.format(train=3) + NONE)
    assert warnings_after(tmp_path, TOOK.format(train=10) + NONE) == []


def test_only_what_is_new_of_the_log_is_read(tmp_path: Path) -> None:
    log, warnings = tmp_path / "swift.log", list[str]()
    log.write_text("")
    count = RowCount(log, 10, warnings.append, must_match=True)
    text = TOOK.format(train=3) + NONE
    log.write_text("." * len(text))
    count()
    log.write_text(text + TOOK.format(train=10) + NONE)  # other bytes where it has been read
    count()
    assert warnings == []


def test_a_long_log_between_the_parts_is_not_kept(tmp_path: Path) -> None:
    progress = "Map: 50%|#####\r" * 10_000
    texts = (progress + TOOK.format(train=10)[:40], TOOK.format(train=10)[40:] + progress, NONE)
    assert warnings_after(tmp_path, *texts) == []
    with pytest.raises(EngineError):
        warnings_after(tmp_path, progress, TOOK.format(train=9), progress, NONE)


def row(step: int, **fields: object) -> str:
    return json.dumps({"loss": 0.5, "learning_rate": 0.1, "global_step/max_steps": f"{step}/9", **fields}) + "\n"


def test_steps_are_reported_once_as_they_are_written(tmp_path: Path) -> None:
    steps = list[Step]()
    watcher, log = Watcher(tmp_path, steps.append), tmp_path / "v0-1" / "logging.jsonl"
    watcher()
    log.parent.mkdir()
    written = ""
    for text in (row(1), row(2)[:20], row(2)[20:] + "no row\n" + '{"eval_loss": 1}\n', row(3)):
        written += text
        log.write_text(written)
        watcher()
        watcher()
    assert [step.step for step in steps] == [1, 2, 3]
    assert watcher.last == last_step(log) == Step(step=3, steps=9, loss=0.5, learning_rate=0.1)


def test_an_evaluation_is_reported_and_is_not_the_last_step_of_training(tmp_path: Path) -> None:
    log, steps = tmp_path / "logging.jsonl", list[Step]()
    watcher = Watcher(tmp_path, steps.append)
    log.write_text(row(1) + '{"eval_f1": 0.25, "global_step/max_steps": "1/9"}\n')
    watcher()
    assert [step.f1 for step in steps] == [None, 0.25]
    assert watcher.last == last_step(log) == steps[0]


def test_a_training_by_reward_reports_its_reward_and_that_for_detection(tmp_path: Path) -> None:
    log, steps = tmp_path / "logging.jsonl", list[Step]()
    watcher = Watcher(tmp_path, steps.append)
    log.write_text(row(1, reward=0.75, **{"rewards/detection/mean": 0.5}) + row(2, reward=0.25))
    watcher()
    assert [(step.reward, step.detection) for step in steps] == [(0.75, 0.5), (0.25, None)]


def test_a_continuation_that_appends_to_its_log_is_followed(tmp_path: Path) -> None:
    """Without ``add_version`` swift goes on in the same file."""
    log, steps = tmp_path / "logging.jsonl", list[Step]()
    log.write_text(row(1))
    watcher = Watcher(tmp_path, steps.append)
    log.write_text(row(1) + row(2))
    watcher()
    assert [step.step for step in steps] == [2]
