"""The tiny model's forward pass over packed questions: a picture and the words before it once, then many questions.

    <|im_start|>system … <|vision_start|> picture <|vision_end|> | question 1, answer 1 | question 2, answer 2 | …

A question's tokens see the picture, the words before it, and their own question, none of the others; their positions
go on behind the picture. So each question gets what it would get in a row of its own, at a fraction of the time. The
weights and the modules are those of transformers, whose forward takes a row a question and a loop over pictures.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


class PackedBatch(NamedTuple):
    """N pictures with their questions, padded to L tokens; a picture has C x C tokens, P = 4 C C patches.

    ``patches`` (N, P, 1176 / 2) float32: the two frames of a picture are equal, one is given. ``ids`` (N, L), where the
    picture's tokens have their place holders; ``question`` (N, L) numbers: 0 what all see, from 1 on the questions, -1
    padding. ``positions`` (3, N, L).
    """

    patches: Any
    ids: Any
    question: Any
    positions: Any


def visible(question: Any) -> Any:
    """``(N, 1, L, L)``: 0 where a token (row) sees another (column), else a large negative number."""
    import torch

    length = question.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool).tril()
    own, other = question[:, :, None], question[:, None, :]
    sees = earlier & ((other == 0) | (other == own))
    return torch.where(sees, 0.0, -30_000.0)[:, None]


def vision_states(visual: Any, patches: Any, rotary: tuple[Any, Any]) -> Any:
    """The picture's tokens ``(N, C * C, hidden)``. ``rotary``: cosine and sine (P, width of a head)."""
    weight = visual.patch_embed.proj.weight.sum(dim=2).flatten(1)  # both frames are equal
    states = patches @ weight.T
    for block in visual.blocks:
        states = states + _vision_attention(block.attn, block.norm1(states), rotary)
        states = states + block.mlp(block.norm2(states))
    merger = visual.merger
    return merger.mlp(merger.ln_q(states).unflatten(1, (-1, 4)).flatten(2))


def _vision_attention(module: Any, states: Any, rotary: tuple[Any, Any]) -> Any:
    query, key, value = module.qkv(states).unflatten(-1, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4)
    query, key = (_rotated(part, *rotary) for part in (query, key))
    return module.proj(_mixed(query, key, value).transpose(1, 2).flatten(2))


def _mixed(query: Any, key: Any, value: Any, mask: Any = None) -> Any:
    """Attention, written out: in half precision on a CPU it takes less than half the time of torch's own."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    return (scores if mask is None else scores + mask).softmax(dim=-1) @ value


def _rotated(states: Any, cosine: Any, sine: Any) -> Any:
    import torch

    first, second = states.float().chunk(2, dim=-1)
    return (states * cosine + torch.cat((-second, first), dim=-1) * sine).to(states.dtype)


def text_layer(layer: Any, states: Any, rotary: tuple[Any, Any], mask: Any) -> Any:
    """A layer of the language model. ``rotary``: cosine and sine (N, 1, L, width of a head)."""
    module = layer.self_attn
    normed = layer.input_layernorm(states)
    query, key, value = (
        project(normed).unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
        for project in (module.q_proj, module.k_proj, module.v_proj)
    )
    query, key = (_rotated(part, *rotary) for part in (query, key))
    groups = module.num_key_value_groups
    key, value = (part.repeat_interleave(groups, dim=1) if groups > 1 else part for part in (key, value))
    mixed = _mixed(query, key, value, mask)
    states = states + module.o_proj(mixed.transpose(1, 2).flatten(2))
    return states + layer.mlp(layer.post_attention_layernorm(states))


def forward(model: Any, batch: PackedBatch, first: int, vision_rotary: tuple[Any, Any], probed: int) -> tuple[Any, ...]:
    """The vision tower's tokens, those behind layer ``probed`` (both ``(N, C * C, hidden)``), and the last states
    ``(N, L, hidden)``. ``first``: where the picture's tokens begin.
    """
    import torch

    text = model.model.language_model
    seen = vision_states(model.model.visual, batch.patches, vision_rotary)
    embedded, behind = text.embed_tokens(batch.ids), first + seen.shape[1]
    states = torch.cat((embedded[:, :first], seen.float(), embedded[:, behind:]), dim=1)
    cosine, sine = text.rotary_emb(states, batch.positions)
    rotary, mask = (cosine[:, None], sine[:, None]), visible(batch.question).to(seen.dtype)
    at_probe = states
    for number, layer in enumerate(text.layers, 1):
        states = text_layer(layer, states, rotary, mask)
        if number == probed:
            at_probe = states
    return seen, at_probe[:, first:behind], text.norm(states)


def vision_rotary(visual: Any, cells: int) -> tuple[Any, Any]:
    """Cosine and sine ``(P, width of a head)`` of a picture of ``cells`` x ``cells`` tokens."""
    import torch
    from transformers.models.qwen2_vl.modeling_qwen2_vl import get_vision_position_ids

    side = 2 * cells
    ids = get_vision_position_ids(torch.tensor([[1, side, side]]), visual.spatial_merge_size)
    cosine, sine = visual.rotary_pos_emb(torch.zeros(1), ids)
    return cosine, sine
