"""Data sets as columns: renamed categories, joined sources, selections."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmdet_cli.core.annotations import Object, Picture
from vlmdet_cli.data.dataset import (
    OTHER,
    Dataset,
    concatenate,
    escapes_folder,
    from_pictures,
    non_exhaustive_images,
    rename_categories,
)

BOX = (0.0, 0.0, 9.0, 9.0)


def dataset(*labels: str, categories: tuple[str, ...] = (), exhaustive: tuple[str, ...] | None = None) -> Dataset:
    """One picture with an object of each label."""
    objects = tuple(Object(label, BOX) for label in labels)
    picture = Picture(image_id=1, image="a.jpg", width=64, height=48, objects=objects, exhaustive_categories=exhaustive)
    return from_pictures([picture], categories or tuple(dict.fromkeys(labels)))


def objects(data: Dataset) -> list[tuple[str, bool]]:
    """Each object's label, and whether it is a target."""
    return [(data.labels[n], bool(kept)) for n, kept in zip(data.label.tolist(), data.is_target, strict=True)]


# --- renaming ------------------------------------------------------------------------------------------------


def test_a_category_left_out_is_not_mixed_with_one_that_takes_its_name() -> None:
    data = rename_categories(dataset("person", "pedestrian", "car"), {"person": "", "pedestrian": "person"})
    assert data.categories == ("person", "car")
    assert objects(data) == [("person (left out)", False), ("person", True), ("car", True)]


def test_a_category_left_out_is_not_mixed_with_one_of_another_source_that_takes_its_name() -> None:
    names = {"person": "", "pedestrian": "person"}
    parts = {name: rename_categories(dataset(label), names) for name, label in (("a", "person"), ("b", "pedestrian"))}
    data = concatenate(parts)
    assert objects(data) == [("person (left out)", False), ("person", True)]
    assert non_exhaustive_images(data).tolist() == [True, False]


def test_a_blank_name_leaves_a_category_out_and_its_objects_keep_their_label() -> None:
    for blank in ("", "  "):
        data = rename_categories(dataset("cat", "dog"), {"dog": blank})
        assert (data.categories, objects(data)) == (("cat",), [("cat", True), ("dog", False)])
        assert data.drop_reason.tolist() == [0, OTHER]


def test_categories_with_the_same_new_name_become_one() -> None:
    data = rename_categories(dataset("motorbike", "car", "motorcycle"), {"motorbike": "motorcycle"})
    assert data.categories == ("motorcycle", "car")
    assert [label for label, _ in objects(data)] == ["motorcycle", "car", "motorcycle"]


def test_a_merged_category_is_exhaustive_only_where_all_of_its_parts_are() -> None:
    names = {"motorbike": "motorcycle"}
    both, half = (
        rename_categories(dataset("motorbike", "motorcycle", "car", exhaustive=known), names).images[0]
        for known in (("car", "motorbike", "motorcycle"), ("car", "motorbike"))
    )
    assert both.exhaustive_categories == ("car", "motorcycle")
    assert half.exhaustive_categories == ("car",)


def test_names_that_the_data_do_not_have_change_nothing() -> None:
    data = dataset("cat")
    assert rename_categories(data, {"dog": "cat"}) is data


@given(st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["", "a", "b", "x"])))
def test_renaming_keeps_every_object_and_mixes_none_that_is_left_out(names: dict[str, str]) -> None:
    data = rename_categories(dataset(*"abcd"), names)
    assert len(set(data.labels)) == len(data.labels)
    expected = [(names.get(name, name), names.get(name) != "") for name in "abcd"]
    assert [(label if kept else "", kept) for label, kept in objects(data)] == expected
    left_out = {label for label, kept in objects(data) if not kept}
    assert not left_out & set(data.categories)


# --- joining and selecting -----------------------------------------------------------------------------------


def test_a_category_that_only_one_source_has_is_not_exhaustive_in_the_other() -> None:
    data = concatenate({"x": dataset("cat"), "y": dataset("cat", "dog")})
    assert [image.file_name for image in data.images] == ["x/a.jpg", "y/a.jpg"]
    assert [image.exhaustive_categories for image in data.images] == [("cat",), None]
    assert non_exhaustive_images(data).tolist() == [True, False]
    assert data.ids.tolist() == [1, 2, 3]


def test_selected_pictures_keep_their_objects_and_are_numbered_anew() -> None:
    parts = {name: dataset(label) for name, label in (("x", "cat"), ("y", "dog"), ("z", "cow"))}
    data = concatenate(parts)
    for selected in (data.select_images(np.array([1, 2])), data.slice_images(1, 3)):
        assert [image.file_name for image in selected.images] == ["y/a.jpg", "z/a.jpg"]
        assert (selected.image.tolist(), objects(selected)) == ([0, 1], [("dog", True), ("cow", True)])


def test_pictures_are_those_that_a_data_set_was_made_from() -> None:
    picture = Picture(
        image_id="1", image="a.jpg", width=64, height=48, objects=(Object("cat", BOX, crowd=True),),
        ignored=(Object("cow", BOX),), exhaustive_categories=("cat",),
    )  # fmt: skip
    data = from_pictures([picture], ("cat",))
    assert list(data.pictures()) == [picture]


@pytest.mark.parametrize("name", ["", ".", "/a", "../a", "a/../../b", "C:\\a", "\\\\host\\a", "a\0b", "..\\a"])
def test_a_name_outside_its_folder_escapes(name: str) -> None:
    assert escapes_folder(name)


@pytest.mark.parametrize("name", ["a.jpg", "a/b.jpg", "a b.jpg", "ü/é.png", "a..b.jpg", "...jpg"])
def test_a_plain_name_does_not_escape(name: str) -> None:
    assert not escapes_folder(name)
