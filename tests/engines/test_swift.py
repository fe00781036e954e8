"""The engine swift before it loads anything: what decides its texts, and what it needs. Its answers: ``tests/demo``."""

from pathlib import Path
from typing import Any

import pytest

from vlmdet_cli.engines import EngineSettings, SwiftModel, swift
from vlmdet_cli.engines.settings import SwiftOptions
from vlmdet_cli.errors import EngineError
from vlmdet_cli.models.qwen2_vl import QWEN2_VL


def settings(**values: Any) -> EngineSettings:
    plain = {"model": Path("nowhere"), "family": QWEN2_VL, "options": SwiftOptions()}
    return EngineSettings(**{**plain, **values})


@pytest.mark.parametrize(
    "change",
    [
        {"options": SwiftOptions(dtype="bfloat16")},
        {"options": SwiftOptions(attention="eager")},
        {"swift": SwiftModel(model_type="qvq")},
        {"swift": SwiftModel(template="qvq")},
    ],
)
def test_what_decides_the_texts_is_part_of_the_identity(change: dict[str, Any]) -> None:
    identity = swift.SwiftEngine(settings()).identity()
    assert identity == swift.SwiftEngine(settings()).identity()
    assert swift.SwiftEngine(settings(**change)).identity() != identity


def test_a_plug_in_counts_by_its_content(tmp_path: Path) -> None:
    plugins = [tmp_path / name for name in ("a.py", "b.py", "c.py")]
    for path, text in zip(plugins, ("X = 1", "X = 1", "X = 2"), strict=True):
        path.write_text(text)
    identities = [swift.SwiftEngine(settings(swift=SwiftModel(plugins=(path,)))).identity() for path in plugins]
    assert identities[0] == identities[1] != identities[2]


def test_a_missing_swift_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swift, "_version", lambda: "")
    with pytest.raises(EngineError) as caught:
        list(swift.SwiftEngine(settings()).answer([], 8))
    assert caught.value.what == "The engine swift needs ms-swift, which is not installed"
    assert "vlmdet[train]" in caught.value.hint
