"""Fixtures of the tests that load tiny models."""

from pathlib import Path

import pytest

from tests.models import tiny_models


@pytest.fixture(scope="session")
def tiny_model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of every tiny model, by name."""
    return tiny_models.write(list(tiny_models.builders()), tmp_path_factory.mktemp("tiny_models"))
