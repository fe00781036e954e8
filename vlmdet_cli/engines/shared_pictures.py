"""A picture that several prompts of a batch are about is prepared and encoded once, as far as the model allows it.

It allows it where a picture's values are rows of patches, counted by ``image_grid_thw``, and its features come from
``get_image_features``, a tensor a picture: so do the Qwen families. The processor then prepares each picture once, and
the features are handed to all of its prompts. Other models are left as they are.
"""

from collections.abc import Sequence
from typing import Any


class SharedPictures:
    """Changes a loaded model and its processor. ``pictures``: those of the batch that the model answers next."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.pictures: Sequence[Any] = ()
        encoder = next((module for module in model.modules() if _encodes_patches(module)), None)
        if encoder is None or "image_grid_thw" not in getattr(processor, "model_input_names", ()):
            return
        self._process, self._encode = processor._process_images, encoder.get_image_features
        processor._process_images = self._process_images
        encoder.get_image_features = self._image_features

    def _process_images(self, images: Sequence[Any], **arguments: Any) -> Any:
        """The values of each different picture, with grids and texts of all."""
        indices, firsts = _different(images)
        values, texts = self._process([images[first] for first in firsts], **arguments)
        values["image_grid_thw"] = values["image_grid_thw"][indices]
        return values, [texts[index] for index in indices]

    def _image_features(self, pixel_values: Any, image_grid_thw: Any = None, **arguments: Any) -> Any:
        """The features of all pictures, of values that have each different one once."""
        if len(self.pictures) != len(image_grid_thw):  # not a batch of the engine
            return self._encode(pixel_values, image_grid_thw, **arguments)
        indices, firsts = _different(self.pictures)
        features = self._encode(pixel_values, image_grid_thw[firsts], **arguments)
        features.pooler_output = _handed_out(features.pooler_output, indices)
        if getattr(features, "deepstack_features", None):
            features.deepstack_features = [_handed_out(layer, indices) for layer in features.deepstack_features]
        return features


def _encodes_patches(module: Any) -> bool:
    return "visual" in module._modules and hasattr(module, "get_image_features")


def _different(pictures: Sequence[Any]) -> tuple[list[int], list[int]]:
    """Of each picture its index among the different ones; of each different one where it comes first."""
    index_of: dict[int, int] = {}
    indices = [index_of.setdefault(id(picture), len(index_of)) for picture in pictures]
    return indices, [indices.index(index) for index in range(len(index_of))]


def _handed_out(features: Sequence[Any], indices: Sequence[int]) -> tuple[Any, ...]:
    return tuple(features[index] for index in indices)
