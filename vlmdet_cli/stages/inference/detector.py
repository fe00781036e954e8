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
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from vlmdet_cli.core.answers import ParsedDetections
from vlmdet_cli.data.image_files import DAMAGED, EMPTY, Unreadable, to_rgb, turn_upright, upright_size
from vlmdet_cli.engines import Completion, Finish, Request
from vlmdet_cli.engines.answers import AnswersMeta
from vlmdet_cli.engines.infer_rows import InferRow
from vlmdet_cli.engines.loops import LoopRule
from vlmdet_cli.errors import DataError, EngineError, UsageError
from vlmdet_cli.models import dialects
from vlmdet_cli.project import Format, infer_settings
from vlmdet_cli.stages.inference.answer_reading import picture_answers, reading_rules
from vlmdet_cli.stages.inference.infer_inputs import create_engine
from vlmdet_cli.stages.inference.infer_model import InferRequest, asked_as, choose_model
from vlmdet_cli.stages.inference.infer_prompts import with_prompts
from vlmdet_cli.stages.inference.picture_detections import PictureDetections, picture_detections

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

    Picture = str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]

_NOTHING = ParsedDetections((), (), "empty")
_FINISHES: tuple[Finish, ...] = ("error", "loop", "length", "stop")


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
        ``scores``, ``tiles``, ``dedupe``, and ``ask="each"``, which asks for each of the categories. Raises
        ``UsageError`` for what is not there and for a wrong setting.
        """
        self._settings = infer_settings(settings | {"prompt": prompt})
        request = InferRequest(model=os.fspath(model), adapter=Path(adapter) if adapter is not None else None)
        choice = choose_model(None, request, self._settings)
        self._asked = asked_as(None, choice, self._settings)
        self._engine = create_engine(self._settings, choice, self._asked)
        self._loops = LoopRule(dialects.get(self._asked.dialect), self._settings.stop_loops)
        self._categories = tuple(categories) if categories is not None else None
        self._meta = AnswersMeta(
            engine={},
            model={},
            family=self._asked.family.name,
            dialect=self._asked.dialect,
            max_tokens=self._settings.max_tokens,
            max_pixels=self._asked.max_pixels,
            ask=self._settings.ask,
            dedupe=self._settings.dedupe,
            noise_label=self._asked.noise_label,
        )
        self._rows(InferRow(image="", path="", prompt=""))  # raises for what cannot be asked

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
            requests = _Requests(pictures, Path(folder), self._rows)
            completions = map(self._loops.cut, self._engine.answer(requests, self._settings.max_tokens))
            ready, following = requests.unusable, 0
            for completion in requests.with_errors_of_the_source(completions):
                answered = requests.add(completion)
                if answered is None:
                    continue
                ready[answered.number] = self._detections(answered)
                while following in ready:
                    yield ready.pop(following)
                    following += 1
            yield from (ready[number] for number in sorted(ready))

    def _rows(self, picture: InferRow) -> list[InferRow]:
        """What is asked about a picture: a row for each prompt and each tile."""
        named = self._categories or ()
        return with_prompts(
            [picture], self._settings, Format(), named if self._settings.ask == "each" else (), self._names
        )

    def _names(self) -> Sequence[str]:
        if not self._categories:
            raise UsageError("The prompt names classes, and no categories are given", hint="Give categories.")
        return self._categories

    def _detections(self, answered: "_Answered") -> PictureDetections:
        answers = [row.answer(completion, self._meta) for row, completion in answered.pairs]
        picture = picture_answers(answers, reading_rules(self._meta, self._categories))
        first, finishes = answers[0], {answer.finish for answer in answers}
        completion = Completion(
            key="",
            text="\n".join(answer.text for answer in answers),
            finish=next(finish for finish in _FINISHES if finish in finishes),
            error=first.error,
        )
        whole = _NOTHING if first.finish == "error" else picture.whole
        return picture_detections(answered.image, first.size, completion, whole, scores=self._settings.scores)


class _Answered(NamedTuple):
    """A picture with all that was asked about it. ``image``: its path, empty for one in memory."""

    number: int
    image: str
    pairs: list[tuple[InferRow, Completion]]


class _Requests:
    """The requests of pictures, each made when the engine asks for it. ``rows_of``: what is asked about a picture.

    ``unusable``: the records of pictures in memory that cannot be put into a file, by their numbers.
    """

    def __init__(
        self, pictures: "Iterable[Picture]", folder: Path, rows_of: Callable[[InferRow], list[InferRow]]
    ) -> None:
        self.unusable: dict[int, PictureDetections] = {}
        self._pictures = pictures
        self._folder = folder
        self._rows_of = rows_of
        self._waiting: dict[int, tuple[list[InferRow], dict[int, Completion]]] = {}  # rows, and answers by their index
        self._source_error: Exception | None = None

    def __iter__(self) -> Iterator[Request]:
        for number, picture in enumerate(self._source()):
            try:
                path = self._file(picture, number)
            except Unreadable as error:
                failed = Completion(key="", finish="error", error=str(error))
                self.unusable[number] = picture_detections("", (0, 0), failed, _NOTHING, scores=False)
                continue
            rows = self._rows_of(InferRow(image=str(path), path=str(path), prompt="", size=_size(path)))
            self._waiting[number] = (rows, {})
            for index, row in enumerate(rows):
                yield row.request(f"{number}.{index}")

    def add(self, completion: Completion) -> _Answered | None:
        """The picture whose last answer this is, None where more are to come; its temporary file is removed."""
        number, index = map(int, completion.key.split("."))
        rows, completions = self._waiting[number]
        completions[index] = completion
        if len(completions) < len(rows):
            return None
        del self._waiting[number]
        temporary = self._temporary(number)
        image = "" if rows[0].path == str(temporary) else rows[0].image
        temporary.unlink(missing_ok=True)
        return _Answered(number, image, [(row, completions[n]) for n, row in enumerate(rows)])

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
