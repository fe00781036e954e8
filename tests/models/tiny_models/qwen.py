"""Tiny Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3-VL with experts."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tests.models.tiny_models import tokens

SPECIAL_TOKENS = {
    name: 151643 + index
    for index, name in enumerate(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
         "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
         "<|image_pad|>", "<|video_pad|>")
    )
}  # fmt: skip
VOCABULARY_SIZE = 151936
CHAT_TEMPLATE = (
    "{% for m in messages %}SYSTEM<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' or 'image' in c or 'image_url' in c %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in c %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM = (
    "{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
)
HIDDEN = 64
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY_SIZE, "hidden_size": HIDDEN, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32768, "head_dim": 16,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [2, 3, 3]},
    "bos_token_id": 151643, "eos_token_id": 151645, "pad_token_id": 151643, "initializer_range": 0.2,
}  # fmt: skip
QWEN3_TEXT = {
    **TEXT,
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 5000000.0, "mrope_section": [2, 3, 3], "mrope_interleaved": True,
    },
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
VISION: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"depth": 2, "embed_dim": 64, "hidden_size": HIDDEN, "num_heads": 4, "mlp_ratio": 2},
    "qwen2_5_vl": {
        "depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 4, "out_hidden_size": HIDDEN,
        "fullatt_block_indexes": [1],
    },
    "qwen3_vl": {
        "depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 4, "out_hidden_size": HIDDEN,
        "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 2304,
    },
}  # fmt: skip
VISION["qwen3_vl_moe"] = VISION["qwen3_vl"]
CLASSES = {
    "qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL", "qwen3_vl_moe": "Qwen3VLMoe",
}  # fmt: skip
# the picture processors' settings of the published models
SIZES: dict[int, dict[str, Any]] = {
    28: {"size": {"shortest_edge": 3136, "longest_edge": 12845056}},
    32: {
        "size": {"shortest_edge": 65536, "longest_edge": 16777216}, "patch_size": 16, "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    },
}  # fmt: skip


def build(name: str, folder: Path) -> None:
    """Write the model whose ``model_type`` is ``name``."""
    import torch

    torch.manual_seed(0)
    vocabulary, merges = tokens.vocabulary(SPECIAL_TOKENS)
    model = _model(name)
    plain = {token: index for token, index in vocabulary.items() if token not in SPECIAL_TOKENS}
    tokens.answer_within(model, plain, {"<|im_end|>": SPECIAL_TOKENS["<|im_end|>"]})
    tokens.save(model, _processor(name, vocabulary, merges), folder)


def _model(name: str) -> Any:
    import transformers

    text = QWEN3_TEXT if name.startswith("qwen3") else TEXT
    config = getattr(transformers, f"{CLASSES[name]}Config")(
        text_config={**text, **(EXPERTS if name.endswith("_moe") else {})},
        vision_config={**VISION[name], "initializer_range": 0.2},
        tie_word_embeddings=False,
        image_token_id=SPECIAL_TOKENS["<|image_pad|>"],
        video_token_id=SPECIAL_TOKENS["<|video_pad|>"],
        vision_start_token_id=SPECIAL_TOKENS["<|vision_start|>"],
        vision_end_token_id=SPECIAL_TOKENS["<|vision_end|>"],
    )
    model = getattr(transformers, f"{CLASSES[name]}ForConditionalGeneration")(config)
    ends = [SPECIAL_TOKENS["<|im_end|>"], SPECIAL_TOKENS["<|endoftext|>"]]
    model.generation_config = transformers.GenerationConfig(
        do_sample=False, eos_token_id=ends, pad_token_id=SPECIAL_TOKENS["<|endoftext|>"]
    )
    return model


def _processor(name: str, vocabulary: Mapping[str, int], merges: tokens.Merges) -> Any:
    import transformers

    newer = name.startswith("qwen3")
    tokenizer = transformers.Qwen2Tokenizer(vocab=dict(vocabulary), merges=merges)
    special = [transformers.AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    tokenizer.add_tokens(special, special_tokens=True)
    assert tokenizer.convert_tokens_to_ids("<|image_pad|>") == SPECIAL_TOKENS["<|image_pad|>"]
    sizes = SIZES[32 if newer else 28]
    video = transformers.Qwen3VLVideoProcessor if newer else transformers.Qwen2VLVideoProcessor
    processor = "Qwen3VLProcessor" if newer else f"{CLASSES[name]}Processor"
    return getattr(transformers, processor)(
        image_processor=transformers.Qwen2VLImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=video(),
        chat_template=CHAT_TEMPLATE.replace("SYSTEM", "" if newer else SYSTEM),
    )


BUILDERS = {name: partial(build, name) for name in CLASSES}
