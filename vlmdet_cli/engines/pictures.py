"""The picture of a request, as every engine gives it to its model: upright, cropped, sized by the family.

Requests about the same picture stand near each other: a ``PictureReader`` reads and sizes it once for all of them, and
decodes a file once for all of its crops.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import TYPE_CHECKING, Generic, TypeVar

from vlmdet_cli.data.image_files import Unreadable, open_upright
from vlmdet_cli.engines import EngineSettings, Request
from vlmdet_cli.engines.failures import BadPicture

if TYPE_CHECKING:
    from PIL import Image

Value = TypeVar("Value")
SIZED, DECODED = 8, 2  # pictures kept; a decoded one may be large


class PictureReader:
    """Reads the pictures of requests for one engine; it may be called from several threads."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._sized = Recent["Image.Image"](SIZED)
        self._decoded = Recent["Image.Image"](DECODED)

    def __call__(self, request: Request) -> "Image.Image":
        """The request's picture in RGB with the pixels that the model sees in training. Raises ``BadPicture``.

        Requests about the same picture get the same object.
        """
        return self._sized.get((request.image, request.size, request.crop), lambda: self._read(request))

    def _read(self, request: Request) -> "Image.Image":
        if request.crop is None:
            return sized_picture(request, self._settings)
        picture = self._decoded.get((request.image, request.size), lambda: _upright(request))
        return _sized(_cropped(picture, request), self._settings)


def sized_picture(request: Request, settings: EngineSettings) -> "Image.Image":
    """What ``PictureReader`` gives for a single request."""
    return _sized(_cropped(_upright(request), request), settings)


def _cropped(picture: "Image.Image", request: Request) -> "Image.Image":
    if request.crop is None:
        return picture
    if all(request.size) and picture.size != request.size:  # the crop is in pixels of the annotated size
        width, height = picture.size
        raise BadPicture(f"is {width} x {height}, and was to be cut as one of {request.size[0]} x {request.size[1]}")
    return picture.crop(request.crop)


def _upright(request: Request) -> "Image.Image":
    try:
        return open_upright(request.image, request.size if all(request.size) else None)
    except Unreadable as error:
        # the reader of pictures takes every failure for the picture's; these two are the machine's
        if isinstance(error.__context__, MemoryError | ImportError):
            raise error.__context__ from None
        raise BadPicture(str(error)) from None


def _sized(picture: "Image.Image", settings: EngineSettings) -> "Image.Image":
    try:
        return settings.family.resize(picture, settings.max_pixels)
    except ValueError as error:
        raise BadPicture(str(error)) from None


class Recent(Generic[Value]):
    """The values of the latest keys, each computed once, also where several threads ask at the same time.

    A failure is raised to all who wait for it, and not kept.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._futures: OrderedDict[Hashable, Future[Value]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        with self._lock:
            future = self._futures.get(key)
            if is_new := future is None:
                future = self._futures[key] = Future()
            self._futures.move_to_end(key)
            while len(self._futures) > self._count:
                self._futures.popitem(last=False)
        if is_new:
            self._compute(key, future, compute)
        return future.result()

    def _compute(self, key: Hashable, future: "Future[Value]", compute: Callable[[], Value]) -> None:
        try:
            future.set_result(compute())
        except BaseException as error:
            with self._lock:
                if self._futures.get(key) is future:
                    del self._futures[key]
            future.set_exception(error)
