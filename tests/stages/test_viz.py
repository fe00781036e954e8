"""The stage viz: its drawings of truth and predictions, the files it writes, and bad input."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Boxes, coco_document, picture
from vlmdet_cli.drawing.lettering import palette
from vlmdet_cli.errors import DataError, UsageError
from vlmdet_cli.stages.evaluation import viz_page
from vlmdet_cli.stages.evaluation.evaluate import EvalProtocol, evaluate
from vlmdet_cli.stages.evaluation.viz import Progress, VizRequest, VizResult, draw
from vlmdet_cli.stages.evaluation.viz_panels import open_picture, panel_name

CAT, DOG = palette(["cat", "dog"]).values()
SIZE = (320, 240)


class Set:
    """A small data set in a folder, and the calls to draw it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.images = folder, folder / "images"
        self.truth, self.predictions = folder / "truth.json", folder / "predictions.json"

    def write(
        self, pictures: dict[str, Boxes], predicted: dict[str, dict[str, Sequence[Sequence[float]]]], **more: Any
    ) -> None:
        self.truth.write_text(json.dumps(coco_document(pictures, **({"size": SIZE} | more))))
        self.predictions.write_text(json.dumps([{"image_path": k, "object": v} for k, v in predicted.items()]))
        for name in pictures:
            picture(self.images, name, SIZE)

    def draw(self, on_progress: Progress = lambda _done, _total: None, **options: Any) -> VizResult:
        return draw(VizRequest(self.truth, self.predictions, self.images, self.folder / "viz", **options), on_progress)


@pytest.fixture
def data(tmp_path: Path) -> Set:
    """Four pictures: a found box; a false and a missed box; no object and no prediction; a prediction in a crowd."""
    dataset = Set(tmp_path)
    dataset.write(
        {
            "good.jpg": [("cat", (20, 20, 100, 100))],
            "bad.jpg": [("cat", (200, 20, 100, 100))],
            "empty.jpg": [],
            "crowd.jpg": [("crowd:dog", (0, 0, 300, 200))],
        },
        {
            "good.jpg": {"cat": [[20, 20, 120, 110]]},
            "bad.jpg": {"dog": [[20, 130, 90, 230]]},
            "empty.jpg": {},
            "crowd.jpg": {"dog": [[10, 10, 60, 60]]},
        },
    )
    return dataset


def data_of(result: VizResult) -> Any:
    """The data of a written page."""
    text = Path(result.index).read_text("utf-8")
    return json.loads(text.split('<script type="application/json" id="data">')[1].split("</script>")[0])


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return (image.width, image.height)


def near(path: str, colour: tuple[int, int, int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """A mask (H, W) of the pixels of a JPEG that are close to this colour."""
    same: np.ndarray[Any, np.dtype[np.bool_]] = np.all(
        np.abs(np.asarray(Image.open(path)).astype(int) - colour) < 25, axis=-1
    )
    return same


def test_counts_and_ledger_account_for_every_picture_and_box(data: Set) -> None:
    result = data.draw(limit=3)
    assert result.counts == {"found": 1, "false": 1, "missed": 1, "crowd": 1, "aside": 1}
    assert result.ledger == {"pictures": {"in": 4, "kept": 3, "dropped": {"beyond the limit": 1}}}
    assert result.notes == []


def test_the_worst_picture_comes_first_and_a_perfect_one_last(data: Set) -> None:
    names = [Path(panel).name for panel in data.draw().panels]
    assert names == ["001-bad.jpg", "002-empty.jpg", "003-crowd.jpg", "004-good.jpg"]
    names = [Path(panel).name for panel in data.draw(order="first", limit=2).panels]
    assert names == ["001-good.jpg", "002-bad.jpg"]


def test_limit_0_draws_all(data: Set) -> None:
    assert len(data.draw(limit=0).panels) == 4


def test_boxes_are_drawn_in_their_positions(data: Set) -> None:
    bad, _, _, good = data.draw().panels
    pixels = near(good, CAT)  # three times as large as the picture
    assert pixels[70:325, 61].all()
    assert pixels[328, 62:355].all()
    assert 0.2 < near(bad, CAT)[60:360, 602].mean() < 0.5  # missed: dotted
    assert 0.4 < near(bad, DOG)[395:685, 62].mean() < 0.95  # false: dashed


def test_no_box_is_found_below_the_threshold(data: Set) -> None:
    assert data.draw(protocol=EvalProtocol(iou=0.95)).counts["found"] == 0


def test_the_page_has_every_picture_of_the_truth_and_names_the_files_beside_it(data: Set) -> None:
    (data.folder / "log.jsonl").write_text('{"loss": 1.0, "global_step/max_steps": "5/10"}\n')
    result = data.draw(curve=data.folder / "log.jsonl", limit=1)
    shown = data_of(result)
    assert shown["pictures"]["name"] == ["good.jpg", "bad.jpg", "empty.jpg", "crowd.jpg"]
    assert (result.pictures, len(result.panels)) == (4, 1)
    assert (shown["curve"], shown["sheet"]) == ("curve.png", "sheet.jpg")
    assert Image.open(result.curve or "").getcolors(2) is None


def test_the_pictures_of_the_page_have_the_sizes_that_it_needs_and_old_ones_go(data: Set) -> None:
    picture(data.images, "bad.jpg", (1600, 1200))
    folder = Path(data.draw().index).parent
    assert [size_of(folder / "thumbs" / f"0000{n}.jpg") for n in (1, 2)] == [(320, 240), (320, 240)]
    assert [(path.name, size_of(path)) for path in (folder / "pictures").iterdir()] == [("00002.jpg", (1280, 960))]
    (folder / "thumbs" / "own.jpg").write_text("not of a page")
    assert data_of(data.draw(single_file=True))["images"]["embedded"][0].startswith("data:image/jpeg;base64,")
    assert [path.name for name in ("thumbs", "pictures") for path in (folder / name).iterdir()] == ["own.jpg"]


def test_a_page_of_another_program_is_not_overwritten(data: Set) -> None:
    index = data.folder / "viz" / "index.html"
    index.parent.mkdir()
    index.write_text("<!doctype html><title>My site</title>")
    with pytest.raises(UsageError, match="vlmdet did not write"):
        data.draw()
    assert "My site" in index.read_text()
    index.write_text('<a href="sheet.jpg">All on one sheet</a>')  # as earlier versions wrote it
    data.draw()
    data.draw()


def test_more_pictures_than_a_page_holds_are_told_and_those_with_most_errors_stay(
    data: Set, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viz_page, "MOST", 2)
    result = data.draw()
    shown = data_of(result)
    assert (shown["pictures"]["name"], shown["left_out"]) == (["bad.jpg", "empty.jpg"], 2)
    assert result.notes == shown["notes"]
    assert "shows 2 of 4 pictures" in result.notes[0]


def test_the_truth_can_be_drawn_alone(data: Set) -> None:
    result = draw(VizRequest(data.truth, None, data.images, data.folder / "viz"))
    assert result.counts == {"truth": 2, "crowd": 1}
    assert [Path(panel).name for panel in result.panels][:2] == ["001-good.jpg", "002-bad.jpg"]
    assert near(result.panels[0], CAT)[70:350, 61].all()
    assert (data_of(result)["compared"], data_of(result)["report"]) == (False, None)


def test_the_same_input_gives_the_same_bytes(data: Set) -> None:
    def run(name: str) -> dict[str, bytes]:
        folder = data.folder / name
        draw(VizRequest(data.truth, data.predictions, data.images, folder))
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    first = run("one")
    assert first == run("two")
    assert first == run("one")
    assert not [name for name in first if name.endswith(".tmp")]


def test_panels_of_an_earlier_run_are_removed_and_other_files_stay(data: Set) -> None:
    result = data.draw()
    foreign = Path(result.panels[0]).with_name("own.jpg")
    foreign.write_text("no panel")
    again = data.draw(limit=1)
    assert sorted(Path(result.panels[0]).parent.iterdir()) == [Path(again.panels[0]), foreign]


def test_a_stopped_run_leaves_no_page(data: Set) -> None:
    index = Path(data.draw().index)

    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.draw(on_progress=stop)
    assert not index.exists()
    assert Path(data.draw().index) == index


def test_progress_is_reported_after_each_panel(data: Set) -> None:
    calls: list[tuple[int, int]] = []
    data.draw(limit=3, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


# --- bad input -----------------------------------------------------------------------------------------------


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20000])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (Path.unlink, "not on disk"),
        (lambda path: path.write_bytes(b""), "empty file"),
        (lambda path: path.write_bytes(b"GIF89a" + bytes(40)), "not a picture file"),
        (_cut, "truncated"),
    ],
)
def test_an_unreadable_picture_becomes_a_grey_panel_and_is_counted(
    data: Set, spoil: Callable[[Path], None], reason: str
) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (240, 320, 3), dtype=np.uint8)).save(data.images / "bad.jpg")
    spoil(data.images / "bad.jpg")
    result = data.draw()
    assert result.ledger == {"pictures": {"in": 4, "kept": 3, "dropped": {"cannot be read": 1}}}
    assert result.notes[1] == "1 picture of the page cannot be read: it shows their boxes on an empty ground."
    assert result.notes[0].startswith("Cannot be read: bad.jpg: ")
    assert reason in result.notes[0]
    assert reason in data_of(result)["pictures"]["gone"][1]
    panel = np.asarray(Image.open(result.panels[0])).astype(int)
    assert np.ptp(panel, axis=-1).max() < 6
    assert panel.min() < 120 < panel.max()


@pytest.mark.parametrize(
    ("mode", "name"),
    [("CMYK", "a.jpg"), ("L", "a.jpg"), ("P", "a.png"), ("RGBA", "a.png"), ("I;16", "a.png"), ("1", "a.bmp")],
)
def test_every_kind_of_picture_is_drawn(tmp_path: Path, mode: str, name: str) -> None:
    dataset = Set(tmp_path)
    dataset.write({name: [("cat", (20, 20, 100, 100))]}, {name: {"cat": [[20, 20, 120, 120]]}})
    Image.new(mode, SIZE).save(dataset.images / name)
    result = dataset.draw()
    assert result.ledger["pictures"]["dropped"] == {}
    assert near(result.panels[0], CAT)[70:350, 61].all()


def test_the_first_frame_of_an_animation_is_drawn(tmp_path: Path) -> None:
    frames = [Image.new("RGB", SIZE, colour) for colour in ("blue", "red")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    image, remark = open_picture(tmp_path / "a.gif", SIZE)
    assert image is not None
    assert (image.getpixel((0, 0)), remark) == ((0, 0, 255), "")


def turned(path: Path) -> None:
    """A picture stored lying, 320 x 240, that its EXIF data turn upright, 240 x 320; its left part is red."""
    image = Image.new("RGB", SIZE, (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 100, 240))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)


def test_a_picture_turned_by_exif_follows_the_annotated_size(tmp_path: Path) -> None:
    turned(tmp_path / "a.png")
    upright, remark = open_picture(tmp_path / "a.png", (240, 320))
    assert upright is not None
    assert (upright.size, upright.getpixel((120, 5)), remark) == ((240, 320), (255, 0, 0), "")
    stored, remark = open_picture(tmp_path / "a.png", SIZE)
    assert stored is not None
    assert (stored.size, stored.getpixel((5, 120)), remark) == (SIZE, (255, 0, 0), "")


def test_boxes_are_scaled_to_a_picture_of_another_size_and_the_caption_says_so(data: Set) -> None:
    picture(data.images, "good.jpg", (640, 480))
    result = data.draw()
    assert near(result.panels[3], CAT)[70:325, 61].all()
    assert "640 x 480, its annotations say 320 x 240" in data_of(result)["pictures"]["remark"][0]


def test_detection_json_is_a_truth_too_and_needs_no_size(data: Set) -> None:
    data.truth.write_text('[{"image_path": "good.jpg", "object": {"cat": [[20, 20, 120, 110]]}}]')
    data.predictions.write_text(data.truth.read_text())
    result = data.draw()
    assert result.counts == {"found": 1, "false": 0, "missed": 0}
    assert near(result.panels[0], CAT)[70:325, 61].all()


@pytest.mark.parametrize("name", ["../good.jpg", "/etc/good.jpg", "a/../../good.jpg", "..\\good.jpg", ""])
def test_a_name_that_leaves_the_folder_is_an_error(data: Set, name: str) -> None:
    data.truth.write_text(json.dumps([{"image_path": name, "object": {}}]))
    with pytest.raises(DataError) as caught:
        draw(VizRequest(data.truth, None, data.images, data.folder / "viz"))
    assert repr(name) in str(caught.value)
    assert not (data.folder / "viz").exists()


def test_a_missing_folder_and_an_empty_truth_are_errors(data: Set) -> None:
    with pytest.raises(DataError, match="No such folder of pictures"):
        draw(VizRequest(data.truth, None, data.folder / "nowhere", data.folder / "viz"))
    data.truth.write_text("[]")
    with pytest.raises(DataError, match="No picture to draw"):
        draw(VizRequest(data.truth, None, data.images, data.folder / "viz"))


def test_a_log_without_a_loss_is_a_note_and_an_old_curve_goes(data: Set) -> None:
    log = data.folder / "log.jsonl"
    log.write_text('{"loss": 1.0, "global_step/max_steps": "5/10"}\n')
    old = Path(data.draw(curve=log).curve or "")
    log.write_text("")
    result = data.draw(curve=log)
    assert result.curve is None
    assert not old.exists()
    assert result.notes == [f"No curve, because no row has a loss: {log}"]


def test_a_broken_log_is_an_error_before_anything_is_drawn(data: Set) -> None:
    log = data.folder / "log.jsonl"
    log.write_text("no json\n{}\n")
    with pytest.raises(DataError, match="The training log is not valid"):
        data.draw(curve=log)
    assert not (data.folder / "viz").exists()


def test_names_of_any_kind_are_plain_on_disk(tmp_path: Path) -> None:
    name, label = "sub dir/<b>&'犬\".jpg", "<script>alert(1)</script>"
    dataset = Set(tmp_path)
    dataset.write({name: [(label, (20, 20, 100, 100))]}, {name: {"\u202e</td>": [[1, 1, 9, 9]]}}, categories=[label])
    result = dataset.draw()
    assert data_of(result)["names"] == [label, "\u202e</td>"]
    assert [Path(panel).name for panel in result.panels] == ["001-b.jpg"]


def test_panels_have_plain_names_for_any_name_of_the_picture() -> None:
    assert panel_name(7, "a/b c.d.png") == "007-b-c-d.jpg"
    assert panel_name(1234, "犬") == "1234-picture.jpg"
    assert len(panel_name(1, "x" * 300)) == 68


def test_a_picture_without_an_answer_is_told_from_an_empty_answer(data: Set) -> None:
    data.predictions.write_text('[{"image_path": "good.jpg", "object": {}}]')
    assert data_of(data.draw())["pictures"]["answered"] == [1, 0, 0, 0]


def test_real_pictures_with_perfect_predictions_have_no_errors(tiny_coco: Path, tmp_path: Path) -> None:
    truth = tiny_coco / "annotations" / "instances_val2017.json"
    document = json.loads(truth.read_text())
    results = [
        {key: annotation[key] for key in ("image_id", "category_id", "bbox")}
        for annotation in document["annotations"]
        if not annotation["iscrowd"]
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    result = draw(
        VizRequest(truth, tmp_path / "results.json", tiny_coco / "images" / "val2017", tmp_path / "viz", limit=2)
    )
    assert (result.counts["found"], result.counts["false"], result.counts["missed"]) == (len(results), 0, 0)
    assert len(result.panels) == 2


def test_boxes_have_the_states_that_eval_gives_them(tmp_path: Path) -> None:
    """Of a category that was not searched for, of an object left out as too small, repeated, of an absent class."""
    document = coco_document({"a.jpg": [("cat", (10, 10, 30, 30))], "b.jpg": []}, size=(100, 100))
    for image in document["images"]:
        image["exhaustive_categories"] = ["cat"]
    document["ignored"] = [{"id": 9, "image_id": 2, "category_id": 1, "bbox": [50, 50, 5, 5], "area": 25, "iscrowd": 0,
                            "category": "cat", "reason": "too small"}]  # fmt: skip
    rows = [{"image_path": "a.jpg", "object": {"cat": [[10, 10, 40, 40]] * 3, "dog": [[1, 1, 9, 9]]}},
            {"image_path": "b.jpg", "object": {"cat": [[50, 50, 55, 55], [70, 70, 90, 90]]}}]  # fmt: skip
    for name, content in (("truth.json", document), ("predictions.json", rows)):
        (tmp_path / name).write_text(json.dumps(content))
    for image in document["images"]:
        picture(tmp_path, image["file_name"], (100, 100))
    truth, predictions = tmp_path / "truth.json", tmp_path / "predictions.json"
    for protocol, states in (
        (EvalProtocol(), {"found": 1, "false": 3, "missed": 0, "aside": 2}),
        (EvalProtocol(duplicates="remove"), {"found": 1, "false": 1, "missed": 0, "aside": 2}),
        (EvalProtocol(duplicates="remove", classes="present"), {"found": 1, "false": 1, "missed": 0, "aside": 1}),
    ):
        drawn = draw(VizRequest(truth, predictions, tmp_path, tmp_path / "viz", protocol=protocol))
        overall = evaluate(truth, predictions, protocol).overall
        assert drawn.counts == states
        assert [overall[key] for key in ("tp", "fp", "fn", "ignored")] == list(states.values())
