"""The settings of inference: the table ``[infer]`` and, under each engine's name, the engine's own options."""

from pathlib import Path
from typing import Literal

import msgspec

from vlmdet_cli.core.settings import AboveZero, Amount, Ask, Count, Positive, Share, Table, Text
from vlmdet_cli.core.tiles import Tiling
from vlmdet_cli.data.settings import Split


class TransformersOptions(Table, frozen=True, kw_only=True):
    """``dtype``: ``auto`` is float32 on a CPU, bfloat16 on a GPU. ``attention``: ``auto`` leaves it to transformers."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"


class SwiftOptions(Table, frozen=True, kw_only=True):
    """``dtype``: ``auto`` is float32 on a CPU, bfloat16 on a GPU. ``attention``: ``auto`` leaves it to swift."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"


class VLLMOptions(Table, frozen=True, kw_only=True):
    """``python``: the Python of vLLM's environment, empty for this one. ``data_parallel``: processes, each with
    ``tensor_parallel`` GPUs. ``max_model_len``: the tokens of prompt and answer together, 0 for the model's own limit.
    ``gpu_memory_utilization``: the share of a GPU's memory, or of a CPU's, that a process takes; 0 is 0.9 of a GPU's
    and 0.3 of a CPU's. ``dtype``: ``auto`` is float32 on a CPU, bfloat16 on a GPU. The others are vLLM's own arguments.
    """

    python: str = ""
    data_parallel: Positive = 1
    tensor_parallel: Positive = 1
    gpu_memory_utilization: Share = 0.0
    max_model_len: Count = 0
    enforce_eager: bool = False
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    def rooted(self, folder: Path) -> "VLLMOptions":
        """The same with ``python`` in ``folder``, where it is a relative path; a program's name stays."""
        if "/" not in self.python:
            return self
        return msgspec.structs.replace(self, python=str(folder / Path(self.python).expanduser()))


class ServerOptions(Table, frozen=True, kw_only=True):
    """An OpenAI-compatible server.

    ``urls``: the servers of one model; requests are spread over them. ``model``: its name there, empty for the only
    one that they list. ``kind``: ``auto`` takes it from that list. ``concurrency``: the largest number of requests that
    a server gets at once. ``timeout``: seconds for one answer. ``retries``: how often a request, or a server that is
    down, is tried again. ``api_key_env``: the environment variable with the key, empty for none. ``probe``: check with
    blank pictures that the server does as in training.
    """

    urls: tuple[Text, ...] = ("http://127.0.0.1:8000/v1",)
    model: str = ""
    kind: Literal["auto", "vllm", "swift", "openai"] = "auto"
    concurrency: Positive = 64
    timeout: AboveZero = 300.0
    retries: Count = 5
    api_key_env: str = ""
    probe: bool = True


class RayOptions(Table, frozen=True, kw_only=True):
    """Actors on a Ray cluster. ``address``: that of a cluster, empty for one on this machine that ends with the
    inference. ``actors``: their number, 0 for one on each GPU, or for a single one where the cluster has none. ``cpus``
    and ``gpus``: what each takes; ``auto`` is a GPU where the cluster has any.
    """

    address: str = ""
    actors: Count = 0
    cpus: AboveZero = 1.0
    gpus: Amount | Literal["auto"] = "auto"


class Infer(Table, frozen=True, kw_only=True):
    """``engine``: the name of an engine, whose options are the field of that name, or ``auto`` (see ``choice``).
    ``ask``: the rows as prepared, or prompts that name all classes, one class, or those that the picture has.
    ``prompt``: asks in these words instead.
    ``tiles``: rows, columns and overlap of the tiles that a picture is cut into; ``whole``: ask about all of it too.
    ``dedupe``: IoU from which boxes of a class in a picture are taken for one when answers are read, 0 for never.
    ``family``: the model's family, where neither its folder, its run nor its name tells it.
    ``executor``: where the engine runs, in this process or on Ray's actors.
    ``stop_loops``: how often an answer repeats a box before it is cut, 0 for no limit (see ``engines.loops``).
    """

    engine: str = "auto"
    family: str = ""
    split: Split = "test"
    batch: Positive = 16
    max_tokens: Positive = 1024
    stop_loops: Count = 5
    device: str = "auto"
    ask: Ask = "rows"
    prompt: str = ""
    tiles: tuple[float, ...] = ()
    whole: bool = False
    dedupe: Share = 0.0
    questions: bool = True
    scores: bool = False
    transformers: TransformersOptions = TransformersOptions()
    swift: SwiftOptions = SwiftOptions()
    vllm: VLLMOptions = VLLMOptions()
    server: ServerOptions = ServerOptions()
    executor: Literal["local", "ray"] = "local"
    ray: RayOptions = RayOptions()

    def __post_init__(self) -> None:
        """Raises ``ValueError``, which names the key, for tiles that cannot be."""
        if not self.tiles:
            return
        rows, columns, overlap = self.tiles if len(self.tiles) == 3 else (0, 0, 0)
        given = f"got [{', '.join(f'{value:g}' for value in self.tiles)}]"
        if not all(count >= 1 and count == int(count) for count in (rows, columns)):
            raise ValueError(f"tiles: expected [rows, columns, overlap], the first two whole and from 1 up, {given}")
        if not 0 <= overlap < 1:
            raise ValueError(f"tiles: the overlap is a share of a tile's side, from 0 up and below 1, {given}")

    @property
    def tiling(self) -> Tiling | None:
        """How pictures are cut; None where they are not."""
        if not self.tiles:
            return None
        rows, columns, overlap = self.tiles
        return Tiling(int(rows), int(columns), overlap, self.whole)

    def answers_name(self, split: str = "") -> str:
        """The default name of the answers to a split: what is asked in another way is kept beside it."""
        tiles = "x".join(f"{count:g}" for count in self.tiles[:2])
        parts = [split or self.split, "" if self.ask == "rows" else self.ask, "prompt" if self.prompt else "", tiles]
        return "-".join(filter(None, parts))

    def options(self, engine: str, folder: Path = Path()) -> Table:
        """The options of an engine; an empty table where the engine has none. Relative paths start at ``folder``."""
        options = getattr(self, engine, None)
        if isinstance(options, VLLMOptions):
            return options.rooted(folder)
        return options if isinstance(options, Table) else Table()
