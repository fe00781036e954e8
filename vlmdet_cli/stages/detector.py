"""The detector for Python code: a model that is loaded once and answers picture after picture.

    from vlmdet_cli import Detector

    detector = Detector("out/runs/run-001/merged")
    detector("photo.jpg").boxes
    for detections in detector.stream(paths):
        ...

It asks as ``vlmdet infer --model`` does: in the form in which the model was trained, where that is recorded beside it.
A picture in memory is put into a temporary file for the time of its request, so that every engine, in this process or
in another, gets it the same way.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from vlmdet_cli.core.answers import ParsedDetections
from vlmdet_cli.data.image_files import DAMAGED, EMPTY, Unreadable, to_rgb, turn_upright, upright_size
from vlmdet_cli.engines import Completion, Request
from vlmdet_cli.engines.loops import LoopRule
from vlmdet_cli.errors import DataError, EngineError, UsageError
from vlmdet_cli.metrics.repeats import without_near_repeats
from vlmdet_cli.models import dialects
from vlmdet_cli.project import Format, infer_settings
from vlmdet_cli.prompts.detection import CLASSES
from vlmdet_cli.stages.infer_inputs import create_engine
from vlmdet_cli.stages.infer_model import InferRequest, asked_as, choose_model
from vlmdet_cli.stages.picture_detections import PictureDetections, picture_detections

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

    Picture = str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]

_NOTHING = ParsedDetections((), (), "empty")


class Detector:
    """Detects objects in pictures with one model, which is loaded with the first picture and kept.

    A picture is a path, a PIL image, or an RGB array ``(H, W, 3)`` of uint8. It is turned upright as its EXIF data say.
    An object is for one thread at a time.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "",
        *,
        adapter: str | os.PathLike[str] | None = None,
        prompt: str = "",
        categories: Sequence[str] | None = None,
        **settings: Any,
    ) -> None:
        """``model``: a folder, or a hub's name. ``adapter``: a LoRA checkpoint; ``model`` may then be left out where
        the checkpoint records it. ``prompt``: the question, where ``{classes}`` stands for the categories; by default
        the one that rows are written with. ``categories``: the labels that are known; others become problems.
        ``settings``: those of ``[infer]`` in a project file, such as ``engine``, ``device``, ``batch``, ``max_tokens``,
        ``scores``. Raises ``UsageError`` for what is not there and for a wrong setting.
        """
        self._settings = infer_settings(settings)
        if self._settings.ask != "rows" or self._settings.tiles:
            raise UsageError(
                "A detector asks one prompt about a whole picture; it takes no `ask` and no `tiles`",
                hint="Give prompt and categories, or use `vlmdet infer` with infer.ask or infer.tiles.",
            )
        request = InferRequest(model=os.fspath(model), adapter=Path(adapter) if adapter is not None else None)
        choice = choose_model(None, request, self._settings)
        self._asked = asked_as(None, choice, self._settings)
        self._engine = create_engine(self._settings, choice, self._asked)
        self._loops = LoopRule(dialects.get(self._asked.dialect), self._settings.stop_loops)
        self._categories = tuple(categories) if categories is not None else None
        self._prompt = _prompt(prompt or Format().prompts[0], self._categories)

    @overload
    def __call__(self, picture: "list[Any] | tuple[Any, ...]") -> list[PictureDetections]: ...

    @overload
    def __call__(self, picture: "Picture") -> PictureDetections: ...

    def __call__(self, picture: Any) -> PictureDetections | list[PictureDetections]:
        """The detections of a picture, or of each picture of a list.

        Raises ``DataError`` for a single picture that cannot be used; one of a list has its reason in ``error``.
        """
        if isinstance(picture, list | tuple):
            return list(self.stream(picture))
        (detections,) = self.stream([picture])
        if detections.health == "error":
            raise DataError(f"The picture cannot be used: {detections.image or 'in memory'}", why=detections.error)
        return detections

    def stream(self, pictures: "Iterable[Picture]") -> Iterator[PictureDetections]:
        """The detections of each picture, in the order of the pictures, as soon as they are known.

        Pictures are taken from the iterable a few batches ahead. One that cannot be used has its reason in ``error``.
        An exception of the iterable is raised as it is.
        """
        with tempfile.TemporaryDirectory(prefix="vlmdet-") as folder:
            requests = _Requests(pictures, Path(folder), self._prompt)
            completions = map(self._loops.cut, self._engine.answer(requests, self._settings.max_tokens))
            ready, following = requests.unusable, 0
            for completion in requests.with_errors_of_the_source(completions):
                number = int(completion.key)
                ready[number] = self._detections(*requests.pop(number), completion)
                while following in ready:
                    yield ready.pop(following)
                    following += 1
            yield from (ready[number] for number in sorted(ready))

    def _detections(self, image: str, size: tuple[int, int], completion: Completion) -> PictureDetections:
        parsed = _NOTHING
        if completion.finish != "error":
            dialect = dialects.get(self._asked.dialect, self._asked.max_pixels or None)
            parsed = dialect.parse(completion.text, size if all(size) else None, self._categories, completion.tokens)
            if self._settings.dedupe:
                parsed = without_near_repeats(parsed, self._settings.dedupe)
        return picture_detections(image, size, completion, parsed, scores=self._settings.scores)


class _Requests:
    """The requests of pictures, each made when the engine asks for it.

    ``unusable``: the records of pictures in memory that cannot be put into a file, by their numbers.
    """

    def __init__(self, pictures: "Iterable[Picture]", folder: Path, prompt: str) -> None:
        self.unusable: dict[int, PictureDetections] = {}
        self._pictures = pictures
        self._folder = folder
        self._prompt = prompt
        self._asked: dict[int, tuple[str, tuple[int, int]]] = {}  # path, empty for one in memory, and size
        self._source_error: Exception | None = None

    def __iter__(self) -> Iterator[Request]:
        for number, picture in enumerate(self._source()):
            try:
                path = self._file(picture, number)
            except Unreadable as error:
                failed = Completion(key=str(number), finish="error", error=str(error))
                self.unusable[number] = picture_detections("", (0, 0), failed, _NOTHING, scores=False)
                continue
            size = _size(path)
            self._asked[number] = ("" if path.parent == self._folder else str(path), size)
            yield Request(key=str(number), image=path, prompt=self._prompt, size=size)

    def pop(self, number: int) -> tuple[str, tuple[int, int]]:
        """Path and size of an answered picture; what was kept for it is removed."""
        self._temporary(number).unlink(missing_ok=True)
        return self._asked.pop(number)

    def with_errors_of_the_source(self, completions: Iterable[Completion]) -> Iterator[Completion]:
        """The completions; an exception of the caller's iterable comes out as it is, not as the engine's."""
        try:
            yield from completions
        except EngineError:
            if self._source_error is not None:
                raise self._source_error from None
            raise

    def _source(self) -> "Iterator[Picture]":
        try:
            yield from self._pictures
        except Exception as error:
            self._source_error = error
            raise

    def _file(self, picture: Any, number: int) -> Path:
        """The picture's path; that of a temporary file for one in memory. Raises ``Unreadable``."""
        if isinstance(picture, str | os.PathLike):
            return Path(picture)
        path = self._temporary(number)
        _image(picture).save(path, "BMP")
        return path

    def _temporary(self, number: int) -> Path:
        return self._folder / f"{number}.bmp"  # written as fast as a copy


def _image(picture: Any) -> "Image.Image":
    """A picture in memory in RGB, upright. Raises ``Unreadable``; ``UsageError`` for what is no picture."""
    from PIL import Image

    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise UsageError(
                f"Not an RGB array: shape {picture.shape}, {picture.dtype}",
                hint="An array is (height, width, 3) of uint8, in the order red, green, blue.",
            )
        picture = Image.fromarray(picture)
    if not isinstance(picture, Image.Image):
        raise UsageError(
            f"Not a picture: {type(picture).__name__}", hint="Give a path, a PIL image, or an RGB array of uint8."
        )
    if not all(picture.size):
        raise Unreadable(EMPTY)
    try:
        return to_rgb(turn_upright(picture))
    except OSError:  # a PIL image reads its file when its pixels are needed
        raise Unreadable(DAMAGED) from None


def _size(path: Path) -> tuple[int, int]:
    try:
        return upright_size(path)
    except Unreadable:
        return (0, 0)  # the engine says why


def _prompt(phrase: str, categories: Sequence[str] | None) -> str:
    if CLASSES in phrase and not categories:
        raise UsageError("The prompt names classes, and no categories are given", hint="Give categories.")
    return f"<image>{phrase.replace(CLASSES, ', '.join(categories or ()))}"
