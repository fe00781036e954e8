"""``vlmdet_cli.Detector``: from Python, with pictures of every kind, in order, on a model that is loaded once."""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Cli, picture
from tests.engines.fake_engine import FakeEngine
from tests.stages.test_infer_inputs import TRAINED, model_folder
from vlmdet_cli import Detector, PictureDetections, engines
from vlmdet_cli.core.answers import Detection, ParsedDetections, Problem
from vlmdet_cli.demo import HERE
from vlmdet_cli.demo.worlds import STREET, write_coco
from vlmdet_cli.engines import Completion, EngineSettings, Request
from vlmdet_cli.errors import DataError, EngineError, UsageError
from vlmdet_cli.stages.inference.picture_detections import picture_detections


class KeepingEngine(FakeEngine):
    """Answers pairs of requests in reverse order, as they come; it looks at each picture."""

    def answer(self, requests: Any, max_tokens: int) -> Iterator[Completion]:
        source = iter(requests)
        try:
            while pair := list(itertools.islice(source, 2)):
                yield from super().answer(pair, max_tokens)
        except ValueError as error:
            raise EngineError("The engine failed") from error


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> KeepingEngine:
    """The engine of every detector of a test."""
    engine = KeepingEngine()

    def create(_name: str, settings: EngineSettings) -> KeepingEngine:
        engine.settings = settings  # type: ignore[attr-defined]
        return engine

    monkeypatch.setattr(engines, "create", create)
    return engine


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model")


def test_the_package_itself_imports_nothing_heavy_until_the_detector_is_asked_for() -> None:
    code = "import sys, vlmdet_cli; print({'numpy', 'msgspec', 'torch'} & set(sys.modules), vlmdet_cli.Detector)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set() <class 'vlmdet_cli.stages.inference.detector.Detector'>\n"


def test_a_name_that_the_package_has_not_is_an_attribute_error() -> None:
    import vlmdet_cli

    with pytest.raises(AttributeError, match="no attribute 'detector'"):
        _ = vlmdet_cli.detector


def test_tiles_and_classes_are_asked_about_one_by_one_and_are_one_result(
    model: Path, tmp_path: Path, engine: KeepingEngine
) -> None:
    """The fake engine answers a cat to every prompt, in the left half of what it sees."""
    path, height = picture(tmp_path, "a.png", (200, 100)), len("<image>?") / 10
    cut = Detector(model, prompt="?", tiles=[1, 2, 0.0])
    first, second = cut([path, Image.new("RGB", (200, 100))])
    assert first.boxes.tolist() == second.boxes.tolist() == [[0, 0, 50, height], [100, 0, 150, height]]
    assert (first.image, second.image, first.size, len(first.text.splitlines())) == (str(path), "", (200, 100), 2)
    assert [request.crop for request in engine.asked[-2:]] == [(100, 0, 200, 100), (0, 0, 100, 100)]
    each = Detector(model, prompt="{classes}?", categories=["cat", "dog"], ask="each")(path)
    assert {request.prompt for request in engine.asked[-2:]} == {"<image>cat?", "<image>dog?"}
    assert (each.labels, [problem.kind for problem in each.problems], each.health) == (
        ("cat",),
        ["not_asked"],
        "partial",
    )
    with pytest.raises(UsageError, match="no categories are given"):
        Detector(model, ask="each")


@pytest.mark.usefixtures("engine")
def test_a_picture_gives_its_boxes_in_pixels(model: Path, tmp_path: Path) -> None:
    path = picture(tmp_path, "a.png", (200, 100))
    detections = Detector(model, prompt="?")(path)
    assert (detections.image, detections.size, len(detections)) == (str(path), (200, 100), 1)
    # the fake engine's box: half the width, and as many thousandths of the height as the prompt has letters
    assert detections.boxes.tolist() == [[0, 0, 100, len("<image>?") / 10]]
    assert (detections.labels, detections.scores, detections.health) == (("cat",), None, "ok")
    assert (detections.finish, detections.problems, detections.error) == ("stop", (), "")
    assert detections.text.startswith("<|object_ref_start|>cat")


def test_pictures_in_memory_are_asked_as_files_are(engine: KeepingEngine, model: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (30, 40, 3), np.uint8)
    seen: list[list[int]] = []
    real = engine._completion

    def completion(request: Request, max_tokens: int) -> Completion:
        with Image.open(request.image) as image:
            seen.append(np.asarray(image.convert("RGB"))[0, 0].tolist())
        return real(request, max_tokens)

    engine._completion = completion  # type: ignore[method-assign]
    turned = Image.fromarray(pixels)
    turned.getexif()[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "a.png")
    detector = Detector(model)
    results = detector([tmp_path / "a.png", pixels, Image.fromarray(pixels), turned])
    assert [result.image for result in results] == [str(tmp_path / "a.png"), "", "", ""]
    assert {result.size for result in results} == {(40, 30)}
    assert sorted(seen) == sorted([pixels[0, 0].tolist()] * 3 + [pixels[-1, -1].tolist()])
    assert not any(request.image.exists() for request in engine.asked[1:] if request.image.suffix == ".bmp")


@pytest.mark.usefixtures("engine")
def test_a_stream_keeps_the_order_and_takes_pictures_only_a_little_ahead(model: Path, tmp_path: Path) -> None:
    taken: list[int] = []

    def pictures() -> Iterator[Path]:
        for number in range(10):
            taken.append(number)
            yield picture(tmp_path, f"{number}.png", (10 + number, 10))

    stream = Detector(model).stream(pictures())
    assert next(stream).size == (10, 10)
    assert taken == [0, 1]
    assert [detections.size[0] for detections in stream] == list(range(11, 20))


@pytest.mark.usefixtures("engine")
def test_a_bad_picture_is_recorded_in_a_list_and_raised_alone(model: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    good = picture(tmp_path, "a.png")
    detector = Detector(model)
    with Image.open(_cut_picture(tmp_path)) as cut:
        results = detector([cut, tmp_path / "bad.jpg", good, tmp_path / "gone.jpg", np.zeros((0, 4, 3), np.uint8)])
    assert [result.error for result in results] == ["damaged", "not a picture file", "", "not on disk", "empty file"]
    assert [result.health for result in results] == ["error", "error", "ok", "error", "error"]
    assert [result.size for result in results] == [(0, 0), (0, 0), (64, 48), (0, 0), (0, 0)]
    with pytest.raises(DataError, match=r"The picture cannot be used: .*gone\.jpg"):
        detector(tmp_path / "gone.jpg")


def _cut_picture(folder: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(folder / "cut.png")
    data = (folder / "cut.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    return folder / "cut.png"


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"Not an RGB array: shape \(4, 4\), uint8"),
        (np.zeros((4, 4, 3)), "float64"),
        (7, "Not a picture: int"),
    ],
)
@pytest.mark.usefixtures("engine")
def test_what_is_no_picture_is_a_usage_error(model: Path, thing: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Detector(model)(thing)


@pytest.mark.usefixtures("engine")
def test_an_exception_of_the_callers_pictures_comes_out_as_it_is(model: Path, tmp_path: Path) -> None:
    def pictures() -> Iterator[Path]:
        yield picture(tmp_path, "a.png")
        raise ValueError("the camera is gone")

    with pytest.raises(ValueError, match="the camera is gone"):
        list(Detector(model).stream(pictures()))


def test_the_settings_are_those_of_infer_and_a_wrong_one_is_named(engine: KeepingEngine, tmp_path: Path) -> None:
    trained = model_folder(tmp_path / "trained", trained=TRAINED)
    Detector(trained, batch=3, scores=True, transformers={"dtype": "bfloat16"})
    settings: EngineSettings = engine.settings  # type: ignore[attr-defined]
    assert (settings.batch, settings.scores, settings.max_pixels, settings.system) == (3, True, 7056, "Be brief.")
    assert settings.options.dtype == "bfloat16"  # type: ignore[attr-defined]
    with pytest.raises(UsageError) as caught:
        Detector(trained, bach=3)
    assert caught.value.what == "A setting of inference is wrong"
    assert caught.value.why == ("infer.bach: unknown key; did you mean batch?",)
    with pytest.raises(UsageError, match="No model folder: nowhere"):
        Detector("nowhere")


def test_categories_name_the_classes_in_the_prompt_and_judge_the_labels(
    engine: KeepingEngine, model: Path, tmp_path: Path
) -> None:
    path = picture(tmp_path, "a.png")
    detections = Detector(model, prompt="Find {classes}.", categories=["dog", "bus"])(path)
    assert engine.asked[0].prompt == "<image>Find dog, bus."
    assert [problem.kind for problem in detections.problems] == ["unknown_label"]
    assert detections.health == "partial"
    with pytest.raises(UsageError, match="no categories are given"):
        Detector(model, prompt="Find {classes}.")


def seen(*, scores: bool = True) -> PictureDetections:
    boxes = (
        Detection("cat", (1, 2, 11, 22), 0.5),
        Detection("dog", (0, 0, 4, 4), 0.25),
        Detection("cat", (5, 5, 9, 9), 1),
    )
    parsed = ParsedDetections(boxes, (Problem("unparsed", "x"),), "partial")
    return picture_detections("a.jpg", (40, 30), Completion(key="0", text="…"), parsed, scores=scores)


def test_the_coco_form_has_results_of_the_named_categories() -> None:
    assert seen().to_coco(7, {"cat": 3}) == [
        {"image_id": 7, "category_id": 3, "bbox": [1, 2, 10, 20], "score": 0.5},
        {"image_id": 7, "category_id": 3, "bbox": [5, 5, 4, 4], "score": 1.0},
    ]
    assert [result["score"] for result in seen(scores=False).to_coco(7, {"dog": 1, "cat": 2})] == [1.0, 1.0, 1.0]
    json.dumps(seen().to_coco("a", {"cat": 1}))


def test_the_form_of_supervision_has_boxes_scores_and_names() -> None:
    pytest.importorskip("supervision")
    detections = seen().to_supervision(["bus", "cat"])
    assert detections.xyxy.tolist() == [[1, 2, 11, 22], [0, 0, 4, 4], [5, 5, 9, 9]]
    assert detections.class_id.tolist() == [1, 2, 1]
    assert detections.confidence.tolist() == [0.5, 0.25, 1.0]
    assert detections["class_name"].tolist() == ["cat", "dog", "cat"]
    assert seen(scores=False).to_supervision().confidence is None
    empty = picture_detections("", (4, 4), Completion(key="0"), ParsedDetections((), (), "empty"), scores=True)
    assert len(empty.to_supervision()) == 0


def test_without_supervision_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UsageError, match="pip install supervision"):
        seen().to_supervision()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("transformers") is None, reason="needs the extra `train`")
def test_the_demo_model_answers_from_python_as_from_the_command_line_and_is_loaded_once(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlmdet_cli.engines.transformers import LoadedModel

    write_coco(tmp_path / "street", STREET, {"test": 6})
    paths = sorted((tmp_path / "street" / "images" / "test").glob("*.jpg"))
    loads: list[EngineSettings] = []
    real = LoadedModel.__init__

    def load(model: LoadedModel, settings: EngineSettings) -> None:
        loads.append(settings)
        real(model, settings)

    monkeypatch.setattr(LoadedModel, "__init__", load)
    detector = Detector(HERE / "model", batch=2, max_tokens=64, scores=True)
    single = detector(paths[0])
    pictures: list[Any] = [paths[0], Image.open(paths[1]), np.asarray(Image.open(paths[2]).convert("RGB")), *paths[3:]]
    results = list(detector.stream(pictures))
    assert len(loads) == 1
    assert single.text == results[0].text
    command = ["--model", str(HERE / "model"), "--set", "infer.max_tokens=64", "--json"]
    (tmp_path / "vlmdet.toml").write_text("")
    done = cli("infer", *command, *map(str, paths))
    assert done.exit_code == 0, done.stderr
    assert [result.text for result in results] == [document["text"] for document in json.loads(done.stdout)]
    assert any(len(result) for result in results)
    assert all(0 < score < 1 for result in results if result.scores is not None for score in result.scores)
