"""Where a hub's model is on this machine."""

from pathlib import Path

import pytest

from vlmdet_cli.training.hub_cache import cached_folder


def test_a_hubs_model_is_searched_for_in_both_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--Qwen--Other"
    folders = {
        "Qwen/Qwen2.5": tmp_path / "modelscope" / "models" / "Qwen" / "Qwen2___5",
        "Qwen/Other": repository / "snapshots" / "abc123",
    }
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc123\n")
    for name, folder in folders.items():
        assert cached_folder(name) is None
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        assert cached_folder(name) == folder
