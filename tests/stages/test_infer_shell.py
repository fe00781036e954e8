"""``infer`` in a shell: pictures, folders, a list on standard input; one JSON document; drawings of the boxes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from tests.conftest import Cli, picture
from tests.engines.fake_engine import FakeEngine
from tests.stages.test_infer_inputs import model_folder
from vlmdet_cli import engines
from vlmdet_cli.data.image_files import upright_size


@pytest.fixture
def ask(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """``infer`` with a fake engine: its box covers the left half of a picture's top."""
    monkeypatch.setattr(engines, "create", lambda _name, _settings: FakeEngine())
    model = model_folder(tmp_path / "model")

    def run(*arguments: str, stdin: str = "") -> Result:
        return cli("infer", "--model", str(model), *arguments, stdin=stdin)

    return run


def images(result: Result) -> list[str]:
    assert result.exit_code == 0, result.stderr
    documents: list[dict[str, Any]] = json.loads(result.stdout)
    return [document["image"] for document in documents]


def error(result: Result) -> str:
    assert result.stdout == ""
    return f"{result.exit_code} {result.stderr}"


def test_pictures_listed_on_standard_input_are_asked_in_that_order_each_once(ask: Cli, tmp_path: Path) -> None:
    for name in ("b.png", "a b.png", "c.png"):
        picture(tmp_path, name)
    assert images(ask("-", "--json", stdin="b.png\n\na b.png\r\nb.png\n")) == ["b.png", "a b.png"]
    assert images(ask("c.png", "-", "--json", stdin="b.png")) == ["c.png", "b.png"]


def test_a_picture_by_name_is_a_document_and_a_list_or_a_folder_is_an_array(ask: Cli, tmp_path: Path) -> None:
    picture(tmp_path, "only/a.png")
    assert json.loads(ask("only/a.png", "--json").stdout)["image"] == "only/a.png"
    assert images(ask("-", "--json", stdin="only/a.png\n")) == ["only/a.png"]
    assert images(ask("only", "--json")) == ["only/a.png"]


def test_a_list_without_a_picture_is_an_error(ask: Cli) -> None:
    assert error(ask("-", stdin="\n\n")) == (
        "3 error: Standard input lists no picture\nhint: Each line is the path of a picture.\n"
    )


def test_a_missing_picture_of_a_list_is_named_with_its_line(ask: Cli, tmp_path: Path) -> None:
    picture(tmp_path, "a.png")
    assert error(ask("-", stdin="a.png\n\ngone.png\n")) == (
        "3 error: No such picture: gone.png\n  Line 3 of standard input.\nhint: Check the path.\n"
    )
    assert error(ask("gone.png")) == "3 error: No such picture: gone.png\nhint: Check the path.\n"


def test_the_boxes_of_a_picture_are_drawn_into_the_named_file(ask: Cli, tmp_path: Path) -> None:
    path = picture(tmp_path, "a.png", (640, 480))
    result = ask("a.png", "--draw", "out.png")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1].split() == ["drawing", "out.png"]
    drawn = np.asarray(Image.open(tmp_path / "out.png"))
    assert (drawn.shape[0] > 720, *drawn.shape[1:]) == (True, 960, 3)  # the picture, and its legend below
    plain = np.asarray(Image.open(path))[0, 0]
    changed = np.argwhere((drawn[:720] != plain).any(axis=2))
    assert changed.min(axis=0).tolist() == [0, 0]
    assert 480 <= changed.max(axis=0)[1] < 490  # half of the width


def test_the_boxes_of_several_pictures_are_drawn_into_a_folder(ask: Cli, tmp_path: Path) -> None:
    picture(tmp_path, "in/a.png")
    (tmp_path / "in" / "b.jpg").write_bytes(b"no picture")
    document = json.loads(ask("in", "--draw", "out", "--json").stdout)
    assert [picture_["health"] for picture_ in document] == ["ok", "error"]
    drawn = {path.name: upright_size(path) for path in (tmp_path / "out").iterdir()}
    assert {name: (width, height > 720) for name, (width, height) in drawn.items()} == {
        "001-a.jpg": (960, True),
        "002-b.jpg": (960, False),
    }  # where there are boxes, a legend is below the picture
    assert ask("in/a.png", "--draw", "out").exit_code == 0  # a folder that is there


def test_drawings_are_refused_before_the_model_is_asked(ask: Cli, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path, name)
    assert error(ask("a.png", "b.png", "--draw", "out.jpg")) == (
        "2 error: 2 pictures cannot be drawn into one file: out.jpg\nhint: Name a folder for the drawings.\n"
    )


def test_drawings_of_a_split_are_refused(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tests.stages.test_infer_inputs import prepared

    monkeypatch.setattr(engines, "create", lambda _name, _settings: FakeEngine())
    prepared(cli)
    model = model_folder(tmp_path / "model")
    assert error(cli("infer", "--model", str(model), "--draw", "out")) == (
        "2 error: --draw is for pictures that are named\nhint: `vlmdet viz` draws the answers to a split.\n"
    )
