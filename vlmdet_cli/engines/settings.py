"""The settings of inference: the table ``[infer]`` and, under each engine's name, the engine's own options."""

from typing import Literal

from vlmdet_cli.core.settings import Ask, Positive, Share, Table
from vlmdet_cli.data.settings import Split


class TransformersOptions(Table, frozen=True, kw_only=True):
    """``dtype``: ``auto`` is float32 on a CPU, bfloat16 on a GPU. ``attention``: ``auto`` leaves it to transformers."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"


class SwiftOptions(Table, frozen=True, kw_only=True):
    """``dtype``: ``auto`` is float32 on a CPU, bfloat16 on a GPU. ``attention``: ``auto`` leaves it to swift."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"


class Infer(Table, frozen=True, kw_only=True):
    """``engine``: the name of an engine; the field of that name has its options. ``ask``: the rows as prepared, or
    prompts that name all classes, one class, or those that the picture has. ``prompt``: asks in these words instead.
    ``dedupe``: IoU from which boxes of a class in a picture are taken for one when answers are read, 0 for never.
    """

    engine: str = "transformers"
    split: Split = "test"
    batch: Positive = 16
    max_tokens: Positive = 1024
    device: str = "auto"
    ask: Ask = "rows"
    prompt: str = ""
    dedupe: Share = 0.0
    questions: bool = True
    scores: bool = False
    transformers: TransformersOptions = TransformersOptions()
    swift: SwiftOptions = SwiftOptions()

    def answers_name(self, split: str = "") -> str:
        """The default name of the answers to a split: what is asked in another way is kept beside it."""
        parts = [split or self.split, "" if self.ask == "rows" else self.ask, "prompt" if self.prompt else ""]
        return "-".join(filter(None, parts))

    def options(self, engine: str) -> Table:
        """The options of an engine; an empty table where the engine has none."""
        options = getattr(self, engine, None)
        return options if isinstance(options, Table) else Table()
