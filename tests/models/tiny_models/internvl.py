"""Tiny InternVL3 and InternVL3.5 in transformers' own form.

They differ in their language model, Qwen2 or Qwen3, in the ids of InternVL's special tokens, and in their tiles:
InternVL3.5's are those of the published models, InternVL3's are small.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tests.models.tiny_models import tokens
from tests.models.tiny_models.qwen import SPECIAL_TOKENS as QWEN_TOKENS

OWN_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>", "<video>")
# the language model's type, the id of the first of InternVL's own tokens, and the side of a tile in pixels
MODELS = {"internvl": ("qwen2", 151665, 112), "internvl3_5": ("qwen3", 151669, 448)}
VOCABULARY_SIZE = 151936
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' or 'image' in c or 'image_url' in c %}<IMG_CONTEXT>\n"
    "{% elif 'text' in c %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
END = "<|im_end|>"
HIDDEN = 64
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY_SIZE, "hidden_size": HIDDEN, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32768, "head_dim": 32,
    "bos_token_id": 151643, "eos_token_id": 151645, "pad_token_id": 151643, "initializer_range": 0.2,
    "tie_word_embeddings": False,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "attention_bias": True, "initializer_range": 0.2,
}  # fmt: skip
PICTURES: dict[str, Any] = {
    "min_patches": 1, "max_patches": 12, "crop_to_patches": False,
    "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
}  # fmt: skip


def build(name: str, folder: Path) -> None:
    """Write the model of that name."""
    import torch

    torch.manual_seed(0)
    language_model, first, tile = MODELS[name]
    special = {
        **{token: index for token, index in QWEN_TOKENS.items() if index < first},
        **{token: first + index for index, token in enumerate(OWN_TOKENS)},
    }
    vocabulary, merges = tokens.vocabulary(special)
    model = _model(language_model, special, tile)
    plain = {token: index for token, index in vocabulary.items() if token not in special}
    tokens.answer_within(model, plain, {END: special[END]})
    tokens.save(model, _processor(vocabulary, merges, special, tile), folder)


def tile_tokens(side: int) -> int:
    """A token for 2 x 2 patches of 14 x 14 pixels."""
    return (side // 28) ** 2


def _model(language_model: str, special: Mapping[str, int], tile: int) -> Any:
    import transformers

    config = transformers.InternVLConfig(
        text_config={**TEXT, "model_type": language_model},
        vision_config={**VISION, "image_size": [tile, tile]},
        image_seq_length=tile_tokens(tile),
        image_token_id=special["<IMG_CONTEXT>"],
        tie_word_embeddings=False,
    )
    model = transformers.InternVLForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(
        do_sample=False, eos_token_id=special[END], pad_token_id=special["<|endoftext|>"]
    )
    return model


def _processor(vocabulary: Mapping[str, int], merges: tokens.Merges, special: Mapping[str, int], tile: int) -> Any:
    import transformers

    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
             "video_token": "<video>"}  # fmt: skip
    tokenizer = transformers.Qwen2Tokenizer(
        vocab=dict(vocabulary), merges=merges, eos_token=END, extra_special_tokens=named
    )
    added = [transformers.AddedToken(token, special=True, normalized=False) for token in special]
    tokenizer.add_tokens(added, special_tokens=True)
    assert tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>") == special["<IMG_CONTEXT>"]
    return transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(**PICTURES, size={"height": tile, "width": tile}),
        tokenizer=tokenizer,
        video_processor=transformers.InternVLVideoProcessor(),
        image_seq_length=tile_tokens(tile),
        chat_template=CHAT_TEMPLATE,
    )


BUILDERS = {name: partial(build, name) for name in MODELS}
