"""Annotated pictures as records: what a person has marked, and what a model is measured against.

Boxes are float pixels, xyxy, of the upright original picture (see ``boxes``). ``Dataset`` holds the same as columns;
these records are for code that looks at a single picture.
"""

import msgspec

Box = tuple[float, float, float, float]  # left, top, right, bottom
ImageId = int | str


class Object(msgspec.Struct, frozen=True, gc=False):
    """An annotated object: the name of its category and its box. A crowd is a region that holds several objects."""

    label: str
    box: Box
    crowd: bool = False


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """A picture with its annotations; width and height are pixels.

    ``image_id`` is the id in the annotations. ``image`` is the path that rows name: relative to the output folder in
    a project, so that a project can be moved; as given elsewhere. ``ignored`` are annotated objects that are no
    targets (other categories, too small, dropped crowds); the truth of a question about an area depends on them too.
    ``exhaustive_categories`` are the categories whose objects are all annotated; None means every category.
    """

    image_id: ImageId
    image: str
    width: int
    height: int
    objects: tuple[Object, ...] = ()
    ignored: tuple[Object, ...] = ()
    exhaustive_categories: tuple[str, ...] | None = None

    @property
    def targets(self) -> tuple[Object, ...]:
        """The objects that a model should name: all but crowds."""
        return tuple(o for o in self.objects if not o.crowd)
