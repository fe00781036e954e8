"""What swift's log tells while it trains: the number of rows that it took."""

from pathlib import Path

import pytest

from vlmdet_cli.errors import EngineError
from vlmdet_cli.training.log_reader import RowCount

TOOK = "[INFO:swift] train_dataset: Dataset({{\n    features: ['messages'],\n    num_rows: {train}\n}})\n"
HELD = "[INFO:swift] val_dataset: Dataset({{\n    features: ['messages'],\n    num_rows: {val}\n}})\n"
NONE = "[INFO:swift] val_dataset: None\n"


def said(tmp_path: Path, *texts: str, rows: int = 10, must_match: bool = True) -> list[str]:
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
        ("nothing of the kind\n",),
    ],
)
def test_all_rows_taken_is_no_cause_for_words(tmp_path: Path, texts: tuple[str, ...]) -> None:
    assert said(tmp_path, *texts) == []


def test_rows_that_swift_left_out_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        said(tmp_path, "", TOOK.format(train=9) + NONE)
    assert caught.value.what == "swift took 9 of 10 rows"
    assert str(tmp_path / "swift.log") in caught.value.why[0]
    assert "train.rows_must_match" in caught.value.hint


def test_where_that_is_wanted_they_are_a_warning_and_said_once(tmp_path: Path) -> None:
    warnings = said(tmp_path, TOOK.format(train=9) + NONE, "more\n", must_match=False)
    assert warnings == [f"swift took 9 of 10 rows; see its log: {tmp_path}/swift.log"]


def test_what_an_earlier_run_wrote_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "swift.log").write_text(TOOK.format(train=3) + NONE)
    assert said(tmp_path, TOOK.format(train=10) + NONE) == []
