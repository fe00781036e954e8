"""What README and the documents show is run: each block of commands in a shell, in a project that is like the reader's.

The page on the demo is run from its first command to its last, on a part of the demo's pictures and with two steps of
training. Its project, finished, is where the blocks of all other pages begin. Of these, a training is planned but not
started (``--dry-run``), and what ``ELSEWHERE`` names is run by another test. A block that no test can run is marked in
the page itself: see ``shown_blocks``.
"""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.engines.fake_server import FakeServer, serving
from tests.forked_vlmdet import ForkedVlmdet
from tests.shown_blocks import PAGES, ROOT, Block, command_blocks, simple_commands

RUN = [block for page in PAGES for block in command_blocks(page) if not block.not_run]
TUTORIAL = [
    *itertools.takewhile(
        lambda block: "init mine" not in block.text, (block for block in RUN if block.page.name == "start.md")
    )
]
OTHERS = [block for block in RUN if block not in TUTORIAL]
names = "{0.name}".format

# what takes long, a server, or a trained model, as a pattern; and the tests that give it all of its options
ELSEWHERE = {
    "vlmdet init --demo": ["tests/demo/test_demo.py"],
    "vlmdet merge": ["tests/demo/test_demo.py", "tests/stages/test_merge_check.py"],
    "vlmdet doctor --engines(?! --pictures 20)": ["tests/stages/test_engine_parity.py"],
}
REST = r"[^&|;#\n]*"  # of a command
SERVER = "vlmdet infer --set infer.engine=server"  # a fake one, whose answers have no log-probabilities
GATE = "--fail-under"  # which a model of two steps misses
PICTURES = {"train": 12, "val": 6, "test": 8}


class Desk(NamedTuple):
    """``project``: the demo after all its steps, of which each block gets a copy."""

    vlmdet: ForkedVlmdet
    project: Path
    server: FakeServer

    def run(self, script: str, folder: Path) -> None:
        """Run a script; each of its commands must run and end with the exit code that is expected of it."""
        path = f"{self.vlmdet.programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "USE_HF": "1", "COLUMNS": "100"}
        environment.pop("VLMDET_PROJECT", None)
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script],
            cwd=folder, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        ended = self.vlmdet.ended()
        shown = f"{script}\n{done.stdout}{done.stderr}{ended}"
        assert done.returncode == 0, shown
        assert len(ended) == sum(words[0] == "vlmdet" for words in simple_commands(script)), shown
        assert all(code == int(GATE in argv) for argv, code in ended), shown


def adapted(script: str, server: str) -> str:
    """A script as it is run outside the tutorial: see the top of this module."""
    script = re.sub(rf"vlmdet eval {GATE}{REST}", r"(\g<0> || [ $? = 1 ])", script)
    for command in ELSEWHERE:
        script = re.sub(command + REST, "true ", script)
    script = re.sub(r"\bvlmdet (train|experiment)\b", r"vlmdet \1 --dry-run", script)
    script = re.sub(r"(vlmdet train .*--run \w+)", r"\1-planned", script)
    script = re.sub(r"vlmdet infer --model \S*Qwen2-VL-2B-Instruct", "vlmdet infer --model model", script)
    script = script.replace(SERVER, f"{SERVER} --set infer.scores=false --name by-server")
    return script.replace("http://127.0.0.1:8000/v1", server)


@pytest.mark.parametrize("block", RUN, ids=names)
def test_a_block_without_a_mark_starts_nothing_but_vlmdet_and_what_reads(block: Block) -> None:
    programs = {words[0] for words in simple_commands(block.text)}
    assert "vlmdet" in programs
    assert programs <= {"vlmdet", "cd", "echo", "find", "jq", "wait"}, "mark the block: <!-- not run: why -->"


@pytest.mark.parametrize("pattern", ELSEWHERE)
def test_what_is_run_elsewhere_is_shown_and_its_options_are_in_those_tests(pattern: str) -> None:
    shown = [words for block in OTHERS for words in simple_commands(block.text) if re.match(pattern, " ".join(words))]
    assert shown
    texts = "".join((ROOT / name).read_text() for name in ELSEWHERE[pattern])
    options = {word for words in shown for word in words if word.startswith("--")}
    assert {option for option in options if f'"{option}"' not in texts} == set()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """The desk after the tutorial, with the files that the pages take for granted."""
    folder = tmp_path_factory.mktemp("shown")
    vlmdet = ForkedVlmdet(folder)
    with serving() as server:
        desk = Desk(vlmdet, folder / "demo", server)
        try:
            follow_the_tutorial(desk)
            add_what_is_taken_for_granted(desk)
            yield desk
        finally:
            vlmdet.stop()


def follow_the_tutorial(desk: Desk) -> None:
    """Run the page on the demo; once it has written the demo, with few pictures and steps."""
    first, *others = TUTORIAL
    desk.run(first.text, desk.project.parent)
    for split, count in PICTURES.items():
        keep_pictures(desk.project / "annotations" / f"instances_{split}.json", count)
    file = desk.project / "vlmdet.toml"
    text = file.read_text().replace("[train.swift]\n", "[train.swift]\nmax_steps = 2\n")
    file.write_text(f'{text}\n[merge]\nverify = 0\n[data.categories]\n"hot dog" = "person"\n')
    for block in others:
        desk.run(block.text, desk.project)


def keep_pictures(annotations: Path, count: int) -> None:
    """Cut a COCO file down to its first pictures."""
    document = json.loads(annotations.read_text())
    document["images"] = document["images"][:count]
    ids = {image["id"] for image in document["images"]}
    document["annotations"] = [entry for entry in document["annotations"] if entry["image_id"] in ids]
    annotations.write_text(json.dumps(document))
    for path in (annotations.parents[1] / "images" / annotations.stem.removeprefix("instances_")).iterdir():
        if path.name not in {image["file_name"] for image in document["images"]}:
            path.unlink()


def add_what_is_taken_for_granted(desk: Desk) -> None:
    """More runs, answers to val, an experiment, and pictures, models and files under the names of the pages."""
    import matplotlib

    project = desk.project
    runs = project / "out" / "runs"
    desk.run("vlmdet infer --split val && vlmdet eval --split val", project)
    for name in ("run-002", "small"):
        shutil.copytree(runs / "run-001", runs / name)
        record = json.loads((runs / name / "run.json").read_text())
        (runs / name / "run.json").write_text(json.dumps({**record, "name": name, "started": "2000-01-01T00:00:00Z"}))
    with (project / "vlmdet.toml").open("a") as file:
        file.write("\n[experiments.rank]\ntrain.lora_rank = [8, 16]\n")
    for name in ("DIR", "my-model"):
        (project / name).symlink_to(project / "model")
    (project / "demo").symlink_to(".")
    for copy, source in {
        "photos": "images/val",
        "val2017": "images/val",
        "train": "images/train",
        "photo.jpg": "images/val/000001.jpg",
        "instances_train.json": "annotations/instances_train.json",
        "instances_val.json": "out/data/subset/val.json",
        "answers.jsonl": "out/runs/run-001/answers/val.jsonl",
        "out/runs/run-001/evaluations/step-500.jsonl": "out/runs/run-001/answers/val.jsonl",
        "baseline.json": "out/runs/run-001/reports/test.json",
    }.items():
        (project / copy).parent.mkdir(exist_ok=True)
        (shutil.copytree if (project / source).is_dir() else shutil.copy)(project / source, project / copy)
    (project / "answers.txt").write_text("cat(1,2),(30,40)\n")
    shutil.copy(
        Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", project / "NotoSansCJK-Regular.ttc"
    )
    if shutil.which("jq") is None:
        (desk.vlmdet.programs / "jq").write_text("#!/bin/sh\ncat\n")
        (desk.vlmdet.programs / "jq").chmod(0o755)


def copy_or_link(source: str, target: str) -> str:
    """A copy of a file; of weights, which no command writes in place, a link."""
    if Path(source).suffix in {".safetensors", ".pt", ".pth"}:
        os.link(source, target)
        return target
    return shutil.copy2(source, target)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # the first waits for the tutorial
@pytest.mark.skipif(find_spec("swift") is None, reason="needs the extra `train`")
@pytest.mark.parametrize("block", OTHERS, ids=names)
def test_the_commands_of_a_block_run(desk: Desk, block: Block, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    shutil.copytree(desk.project, folder, symlinks=True, copy_function=copy_or_link)
    desk.server.models = [{"id": str(folder / "out" / "runs" / "run-001" / "merged"), "owned_by": "someone"}]
    desk.run(adapted(block.text, desk.server.url), folder)
