"""infer in a process of its own that is killed at any moment, or whose disk is full: nothing is lost or doubled; and
pictures of every kind, asked of the demo's model: the bad ones are told apart, the odd ones answered."""

import json
import os
import random
import resource
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Cli, picture
from tests.engines.fake_engine import TEXT
from tests.stages.test_infer_inputs import model_folder
from vlmdet_cli.demo import HERE
from vlmdet_cli.demo.worlds import SHAPES, write_coco

MODEL = HERE / "model"
ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "tests.stages.infer_with_slow_engine", "infer", "--model", "base", "--json",
           "--output", "answers.jsonl", "pictures"]  # fmt: skip
PICTURES = 80


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model_folder(tmp_path / "base")
    for number in range(PICTURES):
        picture(tmp_path / "pictures", f"{number:02d}.png")
    return tmp_path


def start(folder: Path, seconds_an_answer: float = 0.0, **options: Any) -> "subprocess.Popen[str]":
    env = {**os.environ, "PYTHONPATH": str(ROOT), "SECONDS_AN_ANSWER": str(seconds_an_answer)}
    return subprocess.Popen(
        COMMAND, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def asked(folder: Path) -> list[str]:
    """The pictures asked in all runs, in order."""
    return (folder / "asked.txt").read_text().splitlines()


def require_all_answered_once(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [row["image"] for row in rows] == [f"pictures/{number:02d}.png" for number in range(PICTURES)]
    assert {row["text"] for row in rows} == {TEXT.format(n=len(rows[0]["prompt"]))}


@pytest.mark.slow
def test_killed_twenty_times_at_a_random_moment_it_ends_with_each_row_answered_once(folder: Path) -> None:
    draws, answers, counts = random.Random(0), folder / "answers.jsonl", [0]  # noqa: S311  (moments, no secrets)
    for _ in range(20):
        process = start(folder, 0.02)
        deadline = time.monotonic() + 60
        size = answers.stat().st_size if answers.is_file() else 0
        while not answers.is_file() or answers.stat().st_size <= size:  # it answers, unlike the one before it
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(draws.uniform(0, 0.05))
        process.kill()
        process.communicate()
        counts.append(len(answers.read_text().splitlines()))
    assert counts == sorted(counts)
    assert 20 <= counts[-1] < PICTURES  # each was killed before the end, after an answer of its own
    stdout, stderr = start(folder).communicate()
    assert len(json.loads(stdout)) == PICTURES, stderr
    require_all_answered_once(folder)
    assert len(asked(folder)) <= PICTURES + 20  # a kill loses the answer that was being written, and no other


def test_on_a_full_disk_it_names_the_file_and_a_second_run_finishes(folder: Path) -> None:
    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))

    process = start(folder, preexec_fn=limit_files)
    stdout, stderr = process.communicate()
    assert (process.returncode, stdout) == (3, ""), stderr
    assert stderr == (
        "error: Cannot write the answers: answers.jsonl\n  File too large.\n"
        "hint: Free some space and run the same command again: what is answered is kept.\n"
    )
    answered = (folder / "answers.jsonl").read_bytes()
    whole = answered[: answered.rindex(b"\n") + 1].splitlines()
    assert len(whole) > 5
    process = start(folder)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    require_all_answered_once(folder)
    assert set(whole) <= set((folder / "answers.jsonl").read_bytes().splitlines())
    assert len(asked(folder)) == PICTURES + 1  # only the answer that did not fit was asked again


@pytest.mark.slow
@pytest.mark.skipif(find_spec("transformers") is None, reason="needs the extra `train`")
def test_odd_pictures_are_answered_upright_and_bad_ones_are_named(tmp_path: Path, cli: Cli) -> None:
    write_coco(tmp_path, SHAPES, {"test": 2})
    source = tmp_path / "images" / "test" / "000002.jpg"
    folder = tmp_path / "odd"
    folder.mkdir()
    with Image.open(source) as image:
        plain = image.convert("RGB")
    grey = plain.convert("L")
    plain.save(folder / "plain.png")
    plain.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    grey.save(folder / "grey.png")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(folder / "deep.png")
    Image.new("RGB", (1, 1)).save(folder / "point.png")
    plain.resize((20_000, 110)).save(folder / "wide.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation: stored a quarter turn to the left
    plain.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=exif)
    (folder / "cut.jpg").write_bytes(source.read_bytes()[:2000])
    (folder / "empty.jpg").write_bytes(b"")
    done = cli("infer", "--model", str(MODEL), "--json", "odd")
    assert (done.exit_code, done.stderr) == (0, "")
    documents = {Path(document.pop("image")).stem: document for document in json.loads(done.stdout)}
    errors = {name: document["error"] for name, document in documents.items() if document["health"] == "error"}
    assert errors == {"cut": "truncated", "empty": "empty file"}
    assert documents["turned"] == documents["plain"]
    assert documents["plain"]["object"].keys() == {"striped disk", "framed cross"}  # what the picture shows
    assert documents["cmyk"]["object"].keys() == documents["plain"]["object"].keys()
    assert documents["deep"] == documents["grey"]
    assert (documents["point"]["size"], documents["wide"]["size"]) == ([1, 1], [20_000, 110])
    assert {document["finish"] for name, document in documents.items() if name not in errors} <= {"stop", "loop"}
