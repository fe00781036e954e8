"""A picture that several prompts of a batch are about is prepared and encoded once, as far as the model allows it.

It allows it where a picture's values are rows of patches, counted by ``image_grid_thw``, and its features come from
``get_image_features``, a tensor a picture: so do the Qwen families. The processor then prepares each picture once, and
the language model computes the tokens up to the picture's last one once for all of its prompts (``prefill``):

    row 0   <|im_start|>system … <picture 0>   prompt 0          the left part is one row of the first pass,
    row 1                                      prompt 1          the right parts are rows of the second

Other models are left as they are.
"""

from collections.abc import Sequence
from typing import Any

_NEEDED = ("attention_mask", "position_ids", "mm_token_type_ids", "past_key_values")


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

    def prefill(self, model: Any, input_ids: Any, inputs: dict[str, Any]) -> Any:
        """The model's outputs for prompts ``(N, T)`` that are padded at the left; the attention mask in ``inputs``
        becomes that of the cache. None where nothing can be shared.

        ``inputs``: what transformers' ``generate`` hands to its loop, with an empty cache.
        """
        if len(self.pictures) != len(input_ids) or not all(inputs.get(name) is not None for name in _NEEDED):
            return None
        numbers, firsts = _different(self.pictures)
        if len(firsts) == len(numbers):
            return None
        split = _Split(input_ids, inputs, numbers, firsts)
        if not split.rows_agree():
            return None
        model(**split.prefixes(model))
        inputs["past_key_values"].batch_select_indices(split.numbers)
        suffixes = split.suffixes(model)
        inputs["attention_mask"] = suffixes["attention_mask"]
        return model(**suffixes, return_dict=True)

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
        _select(features, indices)
        return features


class _Split:
    """Prompts ``(N, T)`` that are cut behind the picture's last token.

    ``numbers`` (N,): which of the G different pictures a row is about; ``firsts`` (G,): the first row of each.
    """

    def __init__(self, input_ids: Any, inputs: dict[str, Any], numbers: Sequence[int], firsts: Sequence[int]) -> None:
        mask, length = inputs["attention_mask"], input_ids.shape[1]
        self._ids, self._inputs = input_ids, inputs
        self.numbers, self._firsts = (mask.new_tensor(rows) for rows in (numbers, firsts))
        columns = mask.new_tensor(range(length))
        ends = (inputs["mm_token_type_ids"].ne(0) * (columns + 1)).amax(dim=1, keepdim=True)  # (N, 1)
        starts = length - mask.sum(dim=1, keepdim=True)
        width = int((ends - starts).amax())
        prefix = ends - width + columns[:width]  # (N, P), the columns of the left part
        self._is_prefix, self._prefix = prefix >= starts, prefix.clamp(min=0)
        self._suffix = slice(int(ends.amin()), None)
        self._is_suffix = (columns >= ends)[:, self._suffix]  # (N, S)

    def rows_agree(self) -> bool:
        """Whether the rows of a picture have the same tokens up to its last one, and so the same ``_is_prefix``."""
        ids = self._ids.gather(1, self._prefix).masked_fill(~self._is_prefix, -1)
        return bool((ids == ids[self._firsts][self.numbers]).all())

    def prefixes(self, model: Any) -> dict[str, Any]:
        """The model's inputs for the left parts, a row a picture."""
        columns, inputs = self._prefix[self._firsts], self._inputs
        positions = inputs["position_ids"].index_select(-2, self._firsts)
        arguments = inputs | {
            "attention_mask": self._is_prefix[self._firsts].to(inputs["attention_mask"].dtype),
            "position_ids": positions.gather(-1, columns.expand(positions.shape[:-1] + columns.shape[-1:])),
            "mm_token_type_ids": inputs["mm_token_type_ids"][self._firsts].gather(1, columns),
        }
        if inputs.get("mm_encoder_outputs"):  # encoded already, a row each
            _select(inputs["mm_encoder_outputs"]["image"], self._firsts.tolist())
        else:
            arguments["image_grid_thw"] = inputs["image_grid_thw"][self._firsts]
        ids = self._ids[self._firsts].gather(1, columns)
        prepared: dict[str, Any] = model.prepare_inputs_for_generation(ids, is_first_iteration=True, **arguments)
        return prepared

    def suffixes(self, model: Any) -> dict[str, Any]:
        """The model's inputs for the right parts, behind a cache of left parts."""
        import torch

        is_token = torch.cat([self._is_prefix, self._is_suffix], dim=1)
        arguments = self._inputs | {"attention_mask": is_token.to(self._inputs["attention_mask"].dtype)}
        prepared: dict[str, Any] = model.prepare_inputs_for_generation(self._ids[:, self._suffix], **arguments)
        return prepared


def _encodes_patches(module: Any) -> bool:
    return "visual" in module._modules and hasattr(module, "get_image_features")


def _different(pictures: Sequence[Any]) -> tuple[list[int], list[int]]:
    """Of each picture its index among the different ones; of each different one where it comes first."""
    index_of: dict[int, int] = {}
    indices = [index_of.setdefault(id(picture), len(index_of)) for picture in pictures]
    return indices, [indices.index(index) for index in range(len(index_of))]


def _select(features: Any, indices: Sequence[int]) -> None:
    """Replace the features of pictures by those of the pictures with these indices."""
    features.pooler_output = tuple(features.pooler_output[index] for index in indices)
    if layers := getattr(features, "deepstack_features", None):
        features.deepstack_features = [tuple(layer[index] for index in indices) for layer in layers]
