"""vLLM's offline engine, in processes of its own: vLLM pins its own torch, so it mostly lives in another environment.

``infer.vllm.python`` names that environment's Python; without it vLLM is looked for in this one. Each rank of data
parallelism is a process (``worker.py``) with its own share of the GPUs. As with every engine the family
sizes the pictures, here, and vLLM resizes nothing; special tokens of an answer are kept.
"""

import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.core import gpus, programs
from vlmdet_cli.core.files import read_json
from vlmdet_cli.core.model_hash import model_folder_hash
from vlmdet_cli.engines import Completion, EngineSettings, Request
from vlmdet_cli.engines.loops import LoopRule
from vlmdet_cli.engines.pictures import PictureReader
from vlmdet_cli.engines.settings import VLLMOptions
from vlmdet_cli.engines.vllm.ranks import Job, Ranks
from vlmdet_cli.errors import EngineError, UsageError
from vlmdet_cli.models import dialects

WORKER = Path(__file__).parent / "worker.py"
INSTALL = (
    "Install vLLM in an environment of its own, python -m venv ENV && ENV/bin/pip install vllm, and set "
    'infer.vllm.python = "ENV/bin/python".'
)
REPEATED_TOKENS = 5, 64  # of a label and its box, at least and at most; vLLM compares all lengths at each token
# vLLM reports its use to its makers unless it is told not to; a model is read from its folder alone
_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


class VLLMEngine:
    """Answers with the model of ``settings``. vLLM is started for the first request, and ends with this object."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._options = settings.options if isinstance(settings.options, VLLMOptions) else VLLMOptions()
        self._ranks: Ranks | None = None

    def identity(self) -> dict[str, Any]:
        """Raises ``EngineError`` where there is no vLLM, ``UsageError`` for an adapter."""
        options = self._options
        self._require_no_adapter()
        return {
            "name": "vllm",
            "version": installed_version(program(options.python)),
            "model": model_folder_hash(self._settings.model),
            "dtype": options.dtype,
            "max_model_len": options.max_model_len,
            "enforce_eager": options.enforce_eager,
            "tensor_parallel": options.tensor_parallel,
        }

    def answer(self, requests: Iterable[Request], max_tokens: int) -> Iterator[Completion]:
        """Greedy completions, each as soon as it is complete."""
        self._require_no_adapter()
        if self._ranks is None:
            command = (program(self._options.python), str(WORKER))
            environments = rank_environments(self._options, os.environ, gpus.gpus())
            commands = [programs.Command(command, {**_ENVIRONMENT, **environment}) for environment in environments]
            self._ranks = Ranks(commands, self._job(), PictureReader(self._settings))
            weakref.finalize(self, self._ranks.close)  # also at the end of this process
        yield from self._ranks.completions(requests, max_tokens)

    def _job(self) -> Job:
        settings, options = self._settings, self._options
        arguments: dict[str, Any] = {
            "model": str(settings.model.absolute()),
            "tensor_parallel_size": options.tensor_parallel,
            "gpu_memory_utilization": options.gpu_memory_utilization,
            "enforce_eager": options.enforce_eager,
            "dtype": options.dtype,
            "generation_config": "vllm",  # of the model's own settings only ``generation_arguments``
            "logprobs_mode": "raw_logprobs",  # the model's own, as with every engine
            "limit_mm_per_prompt": {"image": 1},
            "mm_processor_kwargs": settings.family.processor_arguments(),
        }
        if options.max_model_len:
            arguments["max_model_len"] = options.max_model_len
        load = {
            "load": arguments,
            "end_tokens": settings.family.end_tokens,
            "scores": settings.scores,
            "sampling": generation_arguments(settings.model),
            "loops": self._repetition(),
        }
        return Job(
            model=settings.model,
            load=load,
            request_text=lambda request: settings.family.request_text(request.prompt, settings.system),
            loops=LoopRule(dialects.get(settings.dialect), settings.stop_loops).loops,
        )

    def _repetition(self) -> dict[str, int] | None:
        """What makes vLLM stop an answer that ``LoopRule`` cuts, as soon as the rule cannot miss it."""
        times = self._settings.stop_loops
        shortest, longest = REPEATED_TOKENS
        return {"min_pattern_size": shortest, "max_pattern_size": longest, "min_count": times + 1} if times else None

    def _require_no_adapter(self) -> None:
        if self._settings.adapter is not None:
            raise UsageError(
                f"The engine vllm takes no adapter: {self._settings.adapter}",
                why="vLLM applies an adapter to the language model alone, and would leave its vision tower's part out.",
                hint="Merge it with `vlmdet merge` and ask the merged model.",
            )


def generation_arguments(model: Path) -> dict[str, Any]:
    """What ``generation_config.json`` changes in a greedy answer, as arguments of vLLM; transformers heeds it too.

    Qwen2.5-VL's has a penalty of 1.05 for tokens that came before.
    """
    file = model / "generation_config.json"
    settings = read_json(file, "generation settings") if file.is_file() else {}
    arguments: dict[str, Any] = {}
    if settings.get("repetition_penalty"):
        arguments["repetition_penalty"] = settings["repetition_penalty"]
    if settings.get("suppress_tokens"):
        arguments["logit_bias"] = [(token, -100.0) for token in settings["suppress_tokens"]]  # vLLM's lowest
    return arguments


def program(python: str) -> str:
    """The Python that vLLM runs in, with its whole path. Raises ``UsageError`` where there is none of that name."""
    if not python:
        return sys.executable
    path = shutil.which(python)
    if path is None:
        raise UsageError(f"No such program: {python}", why="infer.vllm.python names it.", hint=INSTALL)
    return os.path.abspath(path)  # noqa: PTH100  (not resolved: an environment's python is a link)


def installed_version(python: str) -> str:
    """The version of vLLM in the environment of that Python. Raises ``EngineError`` where there is none."""
    command = programs.Command((python, str(WORKER), "--version"))
    with tempfile.TemporaryDirectory(prefix="vlmdet-vllm-") as folder:
        log = Path(folder) / "version.log"
        process = programs.start(command, log, cwd=Path(folder), pipes=True)
        try:
            output, _ = process.communicate()
        finally:
            programs.stop(process)
        if process.returncode:
            raise programs.failed(command, process.returncode, log, INSTALL, "vLLM's Python")
    version = msgspec.json.decode(output)["vllm"]
    if version is None:
        raise EngineError("vLLM is not installed", why=f"It is not in the environment of {python}.", hint=INSTALL)
    return str(version)


def rank_environments(options: VLLMOptions, environment: Mapping[str, str], devices: int) -> list[dict[str, str]]:
    """What each rank adds to the environment: its share of the GPUs that are visible, or of a CPU's cores.

    ``devices``: the number of visible GPUs. Raises ``UsageError`` where there are too few.
    """
    ranks, each = options.data_parallel, options.tensor_parallel
    if not devices:
        return [{} for _ in range(ranks)]
    if ranks * each > devices:
        raise UsageError(
            f"vLLM needs {ranks * each} GPUs, and {devices} are visible",
            why=f"infer.vllm.data_parallel = {ranks}, infer.vllm.tensor_parallel = {each}.",
            hint="Lower one of them, or set CUDA_VISIBLE_DEVICES.",
        )
    names = environment.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(devices)))
    visible = [name.strip() for name in names.split(",")]
    shares = [visible[rank * each : (rank + 1) * each] for rank in range(ranks)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]
