"""What is published: the same bytes from every build, and all that a reader, a type checker and the tests need."""

import email
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from vlmdet_cli import __version__

ROOT = Path(__file__).resolve().parents[1]
IN_SDIST = (
    "vlmdet_cli", "tests", "benchmarks", "sample_configs", "docs", ".ci", "Makefile", "mkdocs.yml", "README.md",
    "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", ".gitignore",
)  # fmt: skip


def build(source: Path, target: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return target


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="needs hatchling, which the extra `dev` has")
    return build(ROOT, tmp_path_factory.mktemp("dist"))


def test_a_copy_of_the_source_of_another_date_gives_the_same_bytes(published: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in IN_SDIST:
        copied = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copied(ROOT / name, copy / name)
    for path in copy.rglob("*"):
        os.utime(path, (10**9, 10**9))
    again = build(copy, tmp_path / "dist")
    names = sorted(path.name for path in published.iterdir())
    assert names == [f"vlmdet-{__version__}-py3-none-any.whl", f"vlmdet-{__version__}.tar.gz"]
    assert all((published / name).read_bytes() == (again / name).read_bytes() for name in names)


def test_the_source_distribution_has_all_that_its_tests_need(published: Path) -> None:
    (archive,) = published.glob("*.tar.gz")
    with tarfile.open(archive) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    for name in IN_SDIST:
        files = [path for path in (ROOT / name).rglob("*") if path.is_file()] or [ROOT / name]
        assert {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts} <= names


def test_the_wheel_has_the_package_its_types_its_licence_and_readme_and_nothing_else(published: Path) -> None:
    (archive,) = published.glob("*.whl")
    folder = f"vlmdet-{__version__}.dist-info"
    with zipfile.ZipFile(archive) as wheel:
        names = set(wheel.namelist())
        metadata = email.message_from_string(wheel.read(f"{folder}/METADATA").decode())
    assert {name.partition("/")[0] for name in names} == {"vlmdet_cli", folder}
    assert {"vlmdet_cli/py.typed", "vlmdet_cli/demo/run.sh", f"{folder}/licenses/LICENSE"} <= names
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert (metadata["License-Expression"], metadata["Description-Content-Type"]) == ("MIT", "text/markdown")
    assert str(metadata.get_payload()).strip() == (ROOT / "README.md").read_text().strip()
