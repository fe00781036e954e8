"""ms-swift from outside: argument lists (pure), and the only place that starts a process.

swift runs as a program of its own, found beside the running interpreter (``pipx`` puts no dependency's program
on PATH; another program called ``swift`` there is a different thing). Flag names follow its version.
"""

import contextlib
import ctypes
import importlib.metadata
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.errors import EngineError
from vlmdet_cli.training.settings import Flag, Train

# in the order of the documented run; the model and the dataset stand after the tuner's type
_RUN_FLAGS = tuple(
    name
    for name in Train.__struct_fields__
    if name not in {"model", "gpus", "nproc_per_node", "tuner_type", "swift", "add_version", "rows_must_match"}
)
# text values that name files: made absolute, since swift may be started from anywhere
_PATHS = {"external_plugins", "custom_register_path", "custom_dataset_info", "deepspeed", "val_dataset", "adapters"}
# what any later swift command on the same model must be told as well
_MODEL_FLAGS = ("model_type", "template", "external_plugins", "custom_register_path")
OFFLINE_WAIT = 10.0


class Command(msgspec.Struct, frozen=True):
    """A process to start: its argument list and the environment variables it adds."""

    argv: tuple[str, ...]
    env: dict[str, str] = {}

    def quoted(self) -> str:
        """The command as it can be pasted into a shell."""
        return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in self.env.items()), shlex.join(self.argv)])


def version() -> tuple[int, ...]:
    """The installed ms-swift's version, () where there is none."""
    try:
        text = importlib.metadata.version("ms-swift")
    except importlib.metadata.PackageNotFoundError:
        return ()
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())


def program() -> str:
    """``swift`` where a shell finds the right one by name, else its whole path."""
    own = Path(sys.executable).parent / "swift"
    found = shutil.which("swift")
    return str(own) if own.exists() and (found is None or not own.samefile(found)) else "swift"


def require() -> None:
    """Raise ``EngineError`` where ms-swift is not installed beside vlmdet."""
    if not version() or not (Path(sys.executable).parent / "swift").exists():
        raise EngineError(
            "swift is not installed beside vlmdet",
            why=f"Looked for ms-swift in {Path(sys.executable).parent}.",
            hint="Install the training stack: pip install 'vlmdet[train]' (pipx: pipx install 'vlmdet[train]').",
        )


def gpus() -> int:
    """How many CUDA devices there are."""
    return len(gpu_memory())


def gpu_memory() -> list[float]:
    """Memory of each CUDA device in GB, asked of the driver itself: torch is not imported for it."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "x").strip() in {"", "-1"}:
        return []
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count, device, size = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_size_t(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    out = []
    for number in range(count.value):
        driver.cuDeviceGet(ctypes.byref(device), number)
        driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
        out.append(size.value / 1e9)
    return out


def tuner_flag(swift_version: tuple[int, ...]) -> str:
    """``tuner_type``, which versions before 4 call ``train_type``."""
    return "train_type" if swift_version and swift_version < (4,) else "tuner_type"


def sft(
    train: Train,
    *,
    model: str,
    dataset: Path,
    output: Path,
    root: Path,
    cpu: bool,
    extra: Sequence[str] = (),
) -> tuple[str, ...]:
    """The arguments of ``swift sft``: the documented run, then ``[train.swift]``, then ``extra`` as it is.

    A flag of ``[train.swift]`` or ``extra`` takes the place of the same flag before it.
    """
    flags: dict[str, Flag] = {
        tuner_flag(version()): train.tuner_type,
        "model": model,
        "dataset": str(dataset),
        **{name: getattr(train, name) for name in _RUN_FLAGS},
        "output_dir": str(output),
        "add_version": train.add_version,
    }
    if cpu:
        flags |= {"torch_dtype": "float32", "use_cpu": True}
    flags |= {name: _absolute(name, value, root) for name, value in train.swift.items()}
    for name in _names(extra):
        flags.pop(name, None)
    return (program(), "sft", *as_arguments(flags), *extra)


def _names(extra: Sequence[str]) -> list[str]:
    return [one.removeprefix("--").partition("=")[0] for one in extra if one.startswith("--")]


def export(train: Train, *, checkpoint: Path, output: Path, root: Path, extra: Mapping[str, Flag]) -> tuple[str, ...]:
    """The arguments of ``swift export`` that merge an adapter into a model folder that must not exist yet."""
    known = {name: _absolute(name, train.swift[name], root) for name in _MODEL_FLAGS if name in train.swift}
    flags = {"adapters": str(checkpoint), "merge_lora": True, "output_dir": str(output), **known, **extra}
    return (program(), "export", *as_arguments(flags))


def _absolute(name: str, value: Flag, root: Path) -> Flag:
    if name in _PATHS and isinstance(value, str) and (root / value).exists():
        return str((root / value).resolve())
    return value


def as_arguments(flags: Mapping[str, Flag]) -> list[str]:
    """Flags as swift takes them: ``--name value``; booleans in lower case, a list as several values."""
    out: list[str] = []
    for name, value in flags.items():
        values = value if isinstance(value, list) else [value]
        out += [f"--{name}", *(str(one).lower() if isinstance(one, bool) else str(one) for one in values)]
    return out


def environment(*, root_images: Path, visible: str, processes: int, cpu: bool) -> dict[str, str]:
    """What swift's environment adds: where rows' picture paths start, the GPUs, the number of processes."""
    env = {"ROOT_IMAGE_DIR": str(root_images)}
    if not cpu:
        env["CUDA_VISIBLE_DEVICES"] = visible
    if processes > 1:
        env["NPROC_PER_NODE"] = str(processes)
    return env


def run(command: Command, log: Path, *, cwd: Path, watch: Callable[[], None], hint: str) -> None:
    """Run to the end with all output in ``log``, calling ``watch`` a few times a second.

    Raises ``EngineError`` with the log's last lines and the process's own exit code. An interrupt ends the
    process and all its children before it goes on.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        process = subprocess.Popen(
            command.argv,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=_child_environment(command.env),
            cwd=cwd,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                watch()
                time.sleep(0.25)
            watch()
        except BaseException:
            stop(process)
            raise
    if process.returncode:
        raise failed(command, process.returncode, log, hint)


def _child_environment(added: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with ``added``; python's own output is not held back."""
    return {**os.environ, "PYTHONUNBUFFERED": "1", **added}


def failed(command: Command, code: int, log: Path, hint: str) -> EngineError:
    """What a user needs of a failed process: the code, the last lines of its log, the log's name."""
    with log.open("rb") as file:
        last = [line.decode("utf-8", "replace").rstrip() for line in deque(file, 40)]
    lines = [line.split("\r")[-1] for line in last if line.strip()][-12:]
    name = " ".join([Path(command.argv[0]).name, *command.argv[1:2]])
    ended = f"exit code {code}" if code > 0 else f"killed by signal {-code} ({signal.Signals(-code).name})"
    return EngineError(f"{name} failed: {ended}", why=[*lines, f"The whole log: {log}"], hint=hint)


def stop(process: "subprocess.Popen[Any]") -> None:
    """End a process and everything it started: politely first, then by force."""
    family = [process.pid, *_descendants(process.pid)]
    for how, patience in ((signal.SIGINT, 8.0), (signal.SIGTERM, 4.0), (signal.SIGKILL, 4.0)):
        for pid in family:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, how)
        end = time.monotonic() + patience
        while time.monotonic() < end and any(map(_alive, family)):
            process.poll()
            time.sleep(0.1)
        if not any(map(_alive, family)):
            process.poll()  # takes its exit status: it leaves no zombie
            return


def _descendants(pid: int) -> list[int]:
    """The process ids of all children and their children, where /proc tells them."""
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, file.read_text().split()):
                found += [child, *_descendants(child)]
    return found


def _alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not yet waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in {"Z", "X"}
