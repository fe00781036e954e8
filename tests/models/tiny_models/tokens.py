"""A small byte-level vocabulary with special tokens at given ids, and weights that answer within it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmdet_cli.demo import HERE

Merges = list[tuple[str, str]]


def vocabulary(special_tokens: Mapping[str, int]) -> tuple[dict[str, int], Merges]:
    """The demo's vocabulary, which writes any text, with other special tokens; and its merges.

    Ids of plain tokens begin at 0; those between them and the special tokens have no token.
    """
    saved = json.loads((HERE / "model" / "tokenizer.json").read_text("utf-8"))
    demo_special = {token["content"] for token in saved["added_tokens"]}
    plain = sorted(saved["model"]["vocab"].keys() - demo_special, key=saved["model"]["vocab"].get)
    numbered = {token: index for index, token in enumerate(plain)}
    return {**numbered, **special_tokens}, [tuple(pair) for pair in saved["model"]["merges"]]


def answer_within(model: Any, tokens: Mapping[str, int], ends: Mapping[str, int], deviation: float = 0.3) -> None:
    """Make random weights answer with the plain tokens and, now and then, with an end token.

    All weights of the language head are zero but for those of plain and end tokens, whose logits alone can be the
    largest.
    """
    import torch

    head = model.get_output_embeddings().weight
    rows = [*tokens.values(), *ends.values()]
    with torch.no_grad():
        values = torch.randn(len(rows), head.shape[1]) * deviation
        head.zero_()
        head[rows] = values.to(head.dtype)


def save(model: Any, processor: Any, folder: Path) -> None:
    """Write the folder as a hub's would be."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
