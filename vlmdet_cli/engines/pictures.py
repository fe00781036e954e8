"""The picture of a request, as every engine gives it to its model: upright, cropped, sized by the family."""

from typing import TYPE_CHECKING

from vlmdet_cli.data.image_files import Unreadable, open_upright
from vlmdet_cli.engines import EngineSettings, Request
from vlmdet_cli.engines.failures import BadPicture

if TYPE_CHECKING:
    from PIL import Image


def sized_picture(request: Request, settings: EngineSettings) -> "Image.Image":
    """The request's picture in RGB with the pixels that the model sees in training. Raises ``BadPicture``."""
    try:
        picture = open_upright(request.image, request.size if all(request.size) else None)
    except Unreadable as error:
        # the reader of pictures takes every failure for the picture's; these two are the machine's
        if isinstance(error.__context__, MemoryError | ImportError):
            raise error.__context__ from None
        raise BadPicture(str(error)) from None
    try:
        return settings.family.resize(picture.crop(request.crop) if request.crop else picture, settings.max_pixels)
    except ValueError as error:
        raise BadPicture(str(error)) from None
