"""vlmdet: fine-tune vision-language models for object detection, from COCO data to a metric table.

For Python code there is ``Detector``; it is imported when it is asked for, so that the package itself imports nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmdet_cli.stages.inference.detector import Detector
    from vlmdet_cli.stages.inference.picture_detections import PictureDetections

__version__ = "0.1.0"
__all__ = ["Detector", "PictureDetections", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vlmdet_cli.stages.inference import detector

    return getattr(detector, name)
