"""Each format recognises its own files by their content, and no reader fails on any bytes."""

import contextlib
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.formats.builders import (
    ALL,
    sources,
    swift_file,
    swift_row,
    voc_object,
    voc_page,
    write,
    yolo_folder,
)
from vlmdet_cli.data.formats import swift_rows, voc, yolo
from vlmdet_cli.errors import DataError


@pytest.mark.parametrize("module", ALL, ids=lambda module: module.__name__.rpartition(".")[2])
def test_each_format_recognises_its_own_and_none_of_the_others(tmp_path: Path, module: ModuleType) -> None:
    recognised = {other.__name__ for other, source in sources(tmp_path).items() if module.recognises(source)}
    assert recognised == {module.__name__}


def test_file_names_do_not_hide_the_format(tmp_path: Path) -> None:
    for module, source in sources(tmp_path).items():
        if source.is_file():
            renamed = source.rename(source.with_name("anything.json"))
            assert [other for other in ALL if other.recognises(renamed)] == [module]


def test_a_folder_with_data_yaml_and_a_list_of_voc_are_recognised(tmp_path: Path) -> None:
    yolo_folder(tmp_path / "yolo", {"a": ""})
    voc_page(tmp_path / "voc", "a", voc_object())
    names = write(tmp_path / "voc/ImageSets/Main/train.txt", "a  -1\n")
    assert [module for module in ALL if module.recognises(tmp_path / "yolo")] == [yolo]
    assert [module for module in ALL if module.recognises(names)] == [voc]


def test_swift_rows_are_recognised_past_a_first_row_without_objects(tmp_path: Path) -> None:
    assert swift_rows.recognises(swift_file(tmp_path, {"images": ["a.jpg"]}, swift_row()))


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\0", b"[", b"[" * 100_000, b'{"images": [], "annotations": []}', b"[1, 2]"]
)
def test_what_is_of_no_format_is_recognised_by_none(tmp_path: Path, content: bytes) -> None:
    for name in ("a.txt", "a.json", "a.csv", "data.yaml"):
        source = write(tmp_path / name, content)
        assert [module for module in ALL if module.recognises(source)] == []
    assert [module for module in ALL if module.recognises(tmp_path / "nowhere")] == []


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_make_a_reader_fail_with_another_error(content: bytes) -> None:
    with TemporaryDirectory() as name:
        file = write(Path(name) / "data.yaml", content)
        for module in ALL:
            module.recognises(file)
            with contextlib.suppress(DataError):
                module.read(file, Path(name), "train", [])
