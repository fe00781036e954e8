"""The blocks of README and the documents that show commands, and the marks of those that no test runs.

A block that cannot be run in a test has a comment before it, which a reader of the rendered page does not see:
``<!-- not run: needs a GPU -->``.
"""

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARK = re.compile(r"<!-- not run: (.+) -->")
SHELLS = {"", "sh", "bash", "shell", "console"}
# a line that a shell takes: a program's name first, behind variables of its environment, or behind a pipe
COMMAND = re.compile(
    r"(?:^|\| |&& |'|srun )(?:\w+=\S+ )*(?:vlmdet|pipx|pip|make|python|swift|vllm|sbatch) [^ ]", re.MULTILINE
)


class Block(NamedTuple):
    """``line``: the number of its first line. ``not_run``: why no test runs it, "" where one does."""

    page: Path
    line: int
    text: str
    not_run: str

    @property
    def name(self) -> str:
        return f"{self.page.name}:{self.line}"


def simple_commands(script: str) -> Iterator[list[str]]:
    """The words of each command of a script, without variables before and files behind it; then of those it quotes."""
    for line in script.replace("\\\n", "").splitlines():
        tokens = shlex.shlex(line, posix=True, punctuation_chars=True)
        tokens.whitespace_split = True
        for is_operator, group in itertools.groupby(tokens, key=lambda token: not token.strip("&|;()")):
            words = list(itertools.dropwhile(re.compile(r"\w+=").match, group))
            words = list(itertools.takewhile(lambda word: word not in {"<", ">"}, words))
            if not is_operator and words:
                yield words
                for quoted in (word for word in words if "vlmdet " in word):
                    yield from simple_commands(quoted)


def command_blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page that show commands, in their order."""
    for line, text, before in _code_blocks(page.read_text().splitlines()):
        mark = MARK.fullmatch(before)
        if COMMAND.search(text):
            yield Block(page, line, text, mark[1] if mark else "")
        elif mark:
            raise AssertionError(f"{page.name}:{line}: a mark before a block without commands")


def _code_blocks(lines: list[str]) -> Iterator[tuple[int, str, str]]:
    """Number of the first line, text, and the last line of words before each block that may be a shell's."""
    number, before = 0, ""
    while number < len(lines):
        line, end = lines[number], number + 1
        if line.startswith("```"):
            end = lines.index("```", end)
            if line.removeprefix("```") in SHELLS:
                yield number + 2, "\n".join(lines[number + 1 : end]), before
            end += 1
        elif line.startswith("    ") and not lines[number - 1].strip():
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            yield number + 1, "\n".join(text[4:] for text in lines[number:end]).rstrip(), before
        before = line if line.strip() else before
        number = end
