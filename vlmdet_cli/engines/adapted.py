"""A loaded model with the adapters of ms-swift's checkpoints on it, unmerged."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

TOWER = "vit.safetensors"  # beside the adapter of ``tuner_type = "lora_llm"``: vision tower and aligner, trained whole


def with_adapters(model: Any, folders: Sequence[Path]) -> Any:
    """The model with all adapters at work: their changes of a weight add up, as if they were merged one by one."""
    from peft import PeftModel
    from safetensors.torch import load_file

    names = [f"adapter_{number}" for number in range(len(folders))]
    for name, folder in zip(names, folders, strict=True):
        if name == names[0]:
            model = PeftModel.from_pretrained(model, str(folder), adapter_name=name, local_files_only=True)
        else:
            model.load_adapter(str(folder), adapter_name=name, local_files_only=True)
        if (folder / TOWER).is_file():
            model.load_state_dict(load_file(folder / TOWER), strict=False)
    model.base_model.set_adapter(names)
    return model
