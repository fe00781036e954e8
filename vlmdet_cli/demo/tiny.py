"""A tiny Qwen2-VL: the real architecture, processor, chat format and special tokens, with a small vocabulary.

The tokenizer is byte-level BPE behind Qwen2's own pre-tokenizer, so any text survives it; each word of the instruction
rows is a single token. The ids of special tokens differ from those of Qwen2-VL, so ms-swift needs ``plugin.py``.

Only the pretraining script uses this module. torch and transformers are imported inside the functions.
"""

import json
from pathlib import Path
from typing import Any

from vlmdet_cli.demo.worlds import SHAPES
from vlmdet_cli.models.qwen2_vl import QWEN2_VL
from vlmdet_cli.prompts import region_tasks

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
# labels that rows may have besides shapes: each word is one token
OTHER_NAMES = ("traffic light", "stop sign", "tennis ball", "hot dog", "traffic cone", "gift box")
PROMPT = "Draw the bounding box of objects"
CELLS = 6  # tokens along a side of a picture
MAX_PIXELS = (28 * CELLS) ** 2
HIDDEN, LAYERS, HEADS, KEY_VALUE_HEADS, INNER = 160, 4, 5, 5, 448
VISION, VISION_LAYERS, VISION_HEADS = 128, 4, 4
# A picture is 6 x 6 tokens. With the usual base of 1,000,000 the rotary angles of neighbouring rows and columns differ
# by a hundredth of a radian, too little to tell them apart. So the base is low, and time, which a picture does not
# have, gets one of the sixteen frequencies.
ROPE_THETA, ROPE_SECTION = 30.0, (1, 6, 9)
INITIAL_DEVIATION = 0.06  # of the random weights; the usual 0.02 suits hidden sizes of a thousand and more

CHAT_TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\n"
    + str(QWEN2_VL.system_prompt)
    + "<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in c %}{{ c['text'] }}"
    "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer() -> Any:
    """A Qwen2 tokenizer with merges learnt from the words of the rows; special tokens have the first ids."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
        r"\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    raw = Tokenizer(models.BPE())
    raw.normalizer = normalizers.NFC()
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(_corpus(), trainer)
    model = json.loads(raw.to_str())["model"]
    vocabulary = {name: number for number, name in enumerate(SPECIAL_TOKENS)}
    for name in sorted(model["vocab"], key=model["vocab"].get):
        vocabulary.setdefault(name, len(vocabulary))
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[tuple(pair) for pair in model["merges"]])
    specials = [AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS]
    tokenizer.add_tokens(specials, special_tokens=True)
    tokenizer.model_max_length = 2048
    return tokenizer


def _corpus() -> list[str]:
    """The words of the rows, with the spaces and line ends that surround them there."""
    names = [*(category.name for category in SHAPES.categories), *OTHER_NAMES]
    texts = [region_tasks.COUNT, region_tasks.FULL, region_tasks.PARTIAL, region_tasks.NONE]
    texts += [region_tasks.FULL_ANSWER, region_tasks.PARTIAL_ANSWER, region_tasks.NONE_ANSWER]
    texts += [PROMPT, str(QWEN2_VL.system_prompt), "system\n", "user\n", "assistant\n"]
    texts += ["No objects.", "),(", "% is visible.", '".', *names, *(f' "{name}" {name}: 1\n' for name in names)]
    return [
        text.replace("<image>", "").replace("{area}", "").replace("{label}", "").replace("{percent}", "")
        for text in texts
    ]


def build_processor(tokenizer: Any) -> Any:
    """Qwen2-VL's processor with small pictures."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    size = {"shortest_edge": 28 * 28 * 4, "longest_edge": MAX_PIXELS}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=size),
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: Any) -> Any:
    """The model with random weights."""
    from transformers import GenerationConfig, Qwen2VLConfig, Qwen2VLForConditionalGeneration

    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS}
    text = {
        "vocab_size": len(tokenizer), "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KEY_VALUE_HEADS, "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA, "mrope_section": list(ROPE_SECTION)},
        "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"],
        "tie_word_embeddings": True, "initializer_range": INITIAL_DEVIATION,
    }  # fmt: skip
    vision = {
        "depth": VISION_LAYERS, "embed_dim": VISION, "hidden_size": HIDDEN, "num_heads": VISION_HEADS, "mlp_ratio": 3,
        "initializer_range": INITIAL_DEVIATION,
    }  # fmt: skip
    config = Qwen2VLConfig(
        initializer_range=INITIAL_DEVIATION,
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    model = Qwen2VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=[ids["<|im_end|>"], ids["<|endoftext|>"]],
        pad_token_id=ids["<|endoftext|>"],
        suppress_tokens=[ids["<|image_pad|>"], ids["<|video_pad|>"], ids["<|vision_pad|>"]],
    )
    return model


def save(model: Any, processor: Any, folder: Path) -> None:
    """Write the model folder as it ships, with half-precision weights."""
    import torch

    halves = {name: value.to(torch.float16) for name, value in model.state_dict().items()}
    model.config.dtype = torch.float16
    model.save_pretrained(folder, state_dict=halves, max_shard_size="100MB")
    processor.save_pretrained(folder)


def request_text(prompt: str, image_tokens: int) -> str:
    """A row's text up to the answer, with the picture's tokens."""
    return QWEN2_VL.request_text(prompt).replace(QWEN2_VL.image_token, QWEN2_VL.image_token * image_tokens)


def patches(pictures: Any) -> Any:
    """Square pictures ``(N, S, S, 3)`` uint8 as patches ``(N, P, 588)`` float32: channel, row and column of 14 x 14
    pixels. Qwen2-VL's patch rows have each channel twice, since a picture is two equal frames.

    The order is that of the image processor: blocks of 2 x 2 patches, since a block becomes a token.
    """
    import torch

    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    count, side = pictures.shape[0], pictures.shape[1]
    values = (torch.from_numpy(pictures.copy()).float() / 255 - mean) / deviation
    blocks = side // 28
    values = values.permute(0, 3, 1, 2).reshape(count, 3, blocks, 2, 14, blocks, 2, 14)
    values = values.permute(0, 2, 5, 3, 6, 1, 4, 7)  # N, block row, block column, row, column, channel, y, x
    return values.reshape(count, blocks * blocks * 4, 3 * 14 * 14)


def count_parameters(model: Any) -> int:
    """The number of weights."""
    return sum(weights.numel() for weights in model.parameters())
