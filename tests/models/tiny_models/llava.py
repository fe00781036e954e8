"""A tiny LLaVA 1.5: a model that ms-swift knows and vlmdet has no module for."""

from pathlib import Path
from typing import Any

from tests.models.tiny_models import tokens

SPECIAL_TOKENS = {"<unk>": 1024, "<s>": 1025, "</s>": 1026, "<image>": 1027, "<pad>": 1028}
SIDE, PATCH = 56, 14


def build(folder: Path) -> None:
    import torch

    torch.manual_seed(0)
    vocabulary, merges = tokens.vocabulary(SPECIAL_TOKENS)
    model = _model()
    plain = {token: index for token, index in vocabulary.items() if token not in SPECIAL_TOKENS}
    tokens.answer_within(model, plain, {"</s>": SPECIAL_TOKENS["</s>"]})
    tokens.save(model, _processor(vocabulary, merges), folder)


def _model() -> Any:
    import transformers

    config = transformers.LlavaConfig(
        text_config={
            "model_type": "llama", "vocab_size": 1032, "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "initializer_range": 0.2,
            "max_position_embeddings": 4096, "bos_token_id": SPECIAL_TOKENS["<s>"],
            "eos_token_id": SPECIAL_TOKENS["</s>"], "pad_token_id": SPECIAL_TOKENS["<pad>"],
        },
        vision_config={
            "model_type": "clip_vision_model", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
            "num_attention_heads": 4, "image_size": SIDE, "patch_size": PATCH, "projection_dim": 64,
            "initializer_range": 0.2,
        },
        image_token_index=SPECIAL_TOKENS["<image>"],
        image_seq_length=(SIDE // PATCH) ** 2,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.LlavaForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(
        do_sample=False, eos_token_id=SPECIAL_TOKENS["</s>"], pad_token_id=SPECIAL_TOKENS["<pad>"]
    )
    return model


def _processor(vocabulary: dict[str, int], merges: tokens.Merges) -> Any:
    import transformers

    tokenizer = transformers.Qwen2Tokenizer(
        vocab=vocabulary, merges=merges, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>",  # noqa: S106
    )  # fmt: skip
    special = [transformers.AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    tokenizer.add_tokens(special, special_tokens=True)
    size = {"height": SIDE, "width": SIDE}
    return transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(size=size, crop_size=size, do_center_crop=False),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


BUILDERS = {"llava": build}
