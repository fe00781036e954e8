"""The configurations of published models, as far as their sizes depend on them; written as transformers saves them."""

from pathlib import Path
from typing import Any

_ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
_ROPE_3 = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
_TOWER_2 = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14}
_TOWER_2_5 = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14}
_TOWER_3 = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "patch_size": 16,
            "deepstack_visual_indexes": [5, 11, 17], "num_position_embeddings": 2304}  # fmt: skip


def _text(hidden: int, layers: int, intermediate: int, heads: int, kv_heads: int, vocabulary: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": intermediate,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocabulary,
        "rope_parameters": _ROPE,
    }  # fmt: skip


def _text_3(*sizes: int) -> dict[str, Any]:
    return {**_text(*sizes), "head_dim": 128, "rope_parameters": _ROPE_3}


# name on the hub: transformers' class, text, vision, whether the head is the word table, the published parameters (of
# InternVL3, rounded)
PUBLISHED: dict[str, tuple[str, dict[str, Any], dict[str, Any], bool, int]] = {
    "Qwen/Qwen2-VL-2B-Instruct": (
        "Qwen2VL", _text(1536, 28, 8960, 12, 2, 151936), {**_TOWER_2, "hidden_size": 1536}, True, 2_208_985_600,
    ),
    "Qwen/Qwen2-VL-7B-Instruct": (
        "Qwen2VL", _text(3584, 28, 18944, 28, 4, 152064), {**_TOWER_2, "hidden_size": 3584}, False, 8_291_375_616,
    ),
    "Qwen/Qwen2.5-VL-3B-Instruct": (
        "Qwen2_5_VL", _text(2048, 36, 11008, 16, 2, 151936), {**_TOWER_2_5, "out_hidden_size": 2048}, True,
        3_754_622_976,
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": (
        "Qwen2_5_VL", _text(3584, 28, 18944, 28, 4, 152064), {**_TOWER_2_5, "out_hidden_size": 3584}, False,
        8_292_166_656,
    ),
    "Qwen/Qwen3-VL-2B-Instruct": (
        "Qwen3VL", _text_3(2048, 28, 6144, 16, 8, 151936), {**_TOWER_3, "out_hidden_size": 2048}, True, 2_127_532_032,
    ),
    "Qwen/Qwen3-VL-4B-Instruct": (
        "Qwen3VL", _text_3(2560, 36, 9728, 32, 8, 151936), {**_TOWER_3, "out_hidden_size": 2560}, True, 4_437_815_808,
    ),
    "Qwen/Qwen3-VL-8B-Instruct": (
        "Qwen3VL", _text_3(4096, 36, 12288, 32, 8, 151936),
        {**_TOWER_3, "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "out_hidden_size": 4096,
         "deepstack_visual_indexes": [8, 16, 24]}, False, 8_767_123_696,
    ),
    "OpenGVLab/InternVL3-2B-hf": (
        "InternVL", {**_text(1536, 28, 8960, 12, 2, 151674), "model_type": "qwen2"},
        {"hidden_size": 1024, "num_hidden_layers": 24, "intermediate_size": 4096, "num_attention_heads": 16,
         "image_size": [448, 448], "patch_size": [14, 14]}, False, 2_090_000_000,
    ),
}  # fmt: skip


def write_config(name: str, folder: Path) -> Path:
    """Write the ``config.json`` of a published model into ``folder/NAME``."""
    import transformers

    kind, text, vision, tied, _ = PUBLISHED[name]
    config = getattr(transformers, f"{kind}Config")(
        text_config={**text, "tie_word_embeddings": tied}, vision_config=vision, tie_word_embeddings=tied
    )
    target = folder / name.rpartition("/")[2]
    config.save_pretrained(target)
    return target
