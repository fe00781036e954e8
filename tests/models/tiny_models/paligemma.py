"""Tiny PaliGemma 2: a Gemma 2 whose vocabulary falls back to bytes, and a SigLIP with pictures of 224 x 224 pixels."""

from pathlib import Path
from typing import Any

from tests.models.tiny_models import tokens

# the ids of the published models
BEGIN, END = "<bos>", "<eos>"
FIRST_TOKENS = ("<pad>", END, BEGIN, "<unk>", "<mask>")
LOCATIONS = {f"<loc{number:04d}>": 256000 + number for number in range(1024)}
SEGMENTS = {f"<seg{number:03d}>": 257024 + number for number in range(128)}
PICTURE = {"<image>": 257152}
VOCABULARY_SIZE = 257216
MERGES = ["▁ a", "▁ c", "▁c at", "a t", "▁ the", "t h", "th e", "▁a r", "▁ar e", "i n", "▁ in", "o n", "▁ ;"]
HIDDEN = 32


def build(folder: Path) -> None:
    """Write the model."""
    import torch

    torch.manual_seed(0)
    vocabulary, merges = _vocabulary()
    model = _model()
    plain = {token: index for token, index in vocabulary.items() if index < 256000 and token not in FIRST_TOKENS}
    tokens.answer_within(model, plain, {END: vocabulary[END]})
    tokens.save(model, _processor(vocabulary, merges), folder)


def _vocabulary() -> tuple[dict[str, int], tokens.Merges]:
    merges: tokens.Merges = []
    known = [*FIRST_TOKENS, *(f"<0x{number:02X}>" for number in range(256)), "▁", *map(chr, range(33, 127))]
    for pair in MERGES:
        left, right = pair.split(" ")
        if left in known and right in known:
            merges.append((left, right))
            known.append(left + right)
    plain = {token: number for number, token in enumerate(known)}
    return {**plain, **LOCATIONS, **SEGMENTS, **PICTURE}, merges


def _model() -> Any:
    import transformers

    text = {
        "model_type": "gemma2", "vocab_size": VOCABULARY_SIZE, "hidden_size": HIDDEN, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "query_pre_attn_scalar": 16, "initializer_range": 0.2, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
        "tie_word_embeddings": False,
    }  # fmt: skip
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 224, "patch_size": 14, "projection_dim": HIDDEN,
        "vision_use_head": False,
    }  # fmt: skip
    config = transformers.PaliGemmaConfig(
        text_config=text, vision_config=vision, image_token_index=PICTURE["<image>"], projection_dim=HIDDEN,
        hidden_size=HIDDEN, pad_token_id=0, eos_token_id=1, bos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.PaliGemmaForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(do_sample=False, eos_token_id=1, pad_token_id=0)
    return model


def _processor(vocabulary: dict[str, int], merges: tokens.Merges) -> Any:
    import transformers

    tokenizer = transformers.GemmaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=False)
    special = [transformers.AddedToken(token, special=True, normalized=False) for token in (BEGIN, END, "<image>")]
    tokenizer.add_tokens(special, special_tokens=True)
    tokenizer.add_tokens([transformers.AddedToken(token, normalized=False) for token in (*LOCATIONS, *SEGMENTS)])
    assert tokenizer.convert_tokens_to_ids("<loc1023>") == LOCATIONS["<loc1023>"]
    pictures = transformers.SiglipImageProcessor(
        size={"height": 224, "width": 224}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    pictures.image_seq_length = 256
    return transformers.PaliGemmaProcessor(image_processor=pictures, tokenizer=tokenizer)


BUILDERS = {"paligemma": build}
