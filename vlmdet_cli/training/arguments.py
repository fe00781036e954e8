"""The argument lists and environment variables of ``swift``: ``sft``, ``rlhf``, ``export``. Pure: starts nothing.

Flag names follow the installed version of ms-swift.
"""

import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlmdet_cli.errors import UsageError
from vlmdet_cli.training import levers
from vlmdet_cli.training.settings import LEVER_FLAGS, OWN_KEYS, Flag, Train

# in the order of the documented run; the model and the dataset come after the tuner's type
_RUN_FLAGS = tuple(
    name
    for name in Train.__struct_fields__
    if name not in {*OWN_KEYS, *LEVER_FLAGS, "model", "tuner_type", "add_version"}
)
# text values that name files: given as absolute paths, since swift may be started from anywhere
PATHS = {
    "external_plugins", "custom_register_path", "custom_dataset_info", "deepspeed", "val_dataset", "adapters",
    "ref_adapters",
}  # fmt: skip
# what any later swift command on the same model must be given as well
MODEL_FLAGS = ("model_type", "template", "external_plugins", "custom_register_path")


def version() -> tuple[int, ...]:
    """The installed ms-swift's version, () where there is none."""
    try:
        text = importlib.metadata.version("ms-swift")
    except importlib.metadata.PackageNotFoundError:
        return ()
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())


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
    defaults: Mapping[str, Flag],
    extra: Sequence[str] = (),
) -> list[str]:
    """The arguments of ``swift sft``: the documented run, ``defaults``, the levers, ``[train.swift]``, then ``extra``
    as it is.

    A flag of a later source replaces the same flag of an earlier one.
    """
    flags: dict[str, Flag] = {
        tuner_flag(version()): train.tuner_type,
        "model": model,
        "dataset": str(dataset),
        **{name: getattr(train, name) for name in _RUN_FLAGS},
        "output_dir": str(output),
        "add_version": train.add_version,
    }
    flags |= {**defaults, **levers.flags(train, root)}
    flags |= {name: absolute(name, value, root) for name, value in train.swift.items()}
    for name in parse(extra):
        flags.pop(name, None)
    return ["sft", *as_arguments(flags), *extra]


def grpo(sft_arguments: Sequence[str]) -> list[str]:
    """The arguments of ``swift rlhf`` for GRPO: those of ``swift sft``, with the flags that GRPO adds among them."""
    return ["rlhf", "--rlhf_type", "grpo", *sft_arguments[1:]]


def export(*, checkpoint: Path, output: Path, flags: Mapping[str, Flag]) -> list[str]:
    """The arguments of ``swift export`` that merge an adapter into a model folder, which must not exist yet."""
    own: dict[str, Flag] = {"adapters": str(checkpoint), "merge_lora": True, "output_dir": str(output)}
    return ["export", *as_arguments({**own, **flags})]


def absolute(name: str, value: Flag, root: Path) -> Flag:
    """The value of a flag that names a file of the project as an absolute path; any other value as it is."""
    is_path = isinstance(value, str) and (name in PATHS or (name == "system" and value.endswith(".txt")))
    if is_path and (root / str(value)).exists():
        return str((root / str(value)).resolve())
    return value


def read_system(value: str, root: Path) -> str:
    r"""The system prompt of the flag ``system``: the text of a file ``*.txt``, else the value with ``\n`` as line ends.

    Raises ``UsageError`` where the file is missing.
    """
    if not value.endswith(".txt"):
        return value.replace("\\n", "\n")
    try:
        return (root / value).read_text("utf-8")
    except OSError as error:
        raise UsageError(f"Cannot read the system prompt: {root / value}", why=f"{error.strerror}.") from None


def as_arguments(flags: Mapping[str, Flag]) -> list[str]:
    """Flags as swift takes them: ``--name value``; booleans in lower case, a list as several values."""
    arguments: list[str] = []
    for name, value in flags.items():
        values = value if isinstance(value, list) else [value]
        arguments += [f"--{name}", *(str(item).lower() if isinstance(item, bool) else str(item) for item in values)]
    return arguments


def split(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """An argument list as (``--name``, values) in order; what comes before the first flag is left out."""
    flags: list[tuple[str, list[str]]] = []
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            flags.append((name, [value] if equals else []))
        elif flags:
            flags[-1][1].append(argument)
    return flags


def parse(arguments: Sequence[str]) -> dict[str, str]:
    """Flags, without the dashes, and their values as text; several values are joined by a space."""
    return {name.removeprefix("--"): " ".join(values) for name, values in split(arguments)}


def visible_gpus(written: str) -> str:
    """``CUDA_VISIBLE_DEVICES`` for swift: as written in the project file, else as a scheduler has set it, else 0."""
    return written or os.environ.get("CUDA_VISIBLE_DEVICES", "").strip() or "0"


def environment(*, root_images: Path, visible: str, cpu: bool) -> dict[str, str]:
    """What swift's environment adds: where rows' picture paths start, and the GPUs."""
    env = {"ROOT_IMAGE_DIR": str(root_images)}
    if not cpu:
        env["CUDA_VISIBLE_DEVICES"] = visible
    return env
