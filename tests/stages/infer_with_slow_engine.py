"""``vlmdet`` with a slow engine, in a process of its own: the fake engine, with a pause before each answer.

It writes the name of each picture that it answers to ``asked.txt``.
"""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.engines.fake_engine import FakeEngine
from vlmdet_cli import engines
from vlmdet_cli.__main__ import main
from vlmdet_cli.engines import Completion, Engine, EngineSettings, Request


class SlowEngine(FakeEngine):
    def answer(self, requests: Iterable[Request], max_tokens: int) -> Iterator[Completion]:
        for completion in super().answer(requests, max_tokens):
            time.sleep(float(os.environ["SECONDS_AN_ANSWER"]))
            with Path("asked.txt").open("a") as file:
                file.write(f"{self.asked[-1].image.name}\n")
            yield completion


def create(name: str, settings: EngineSettings) -> Engine:
    del name, settings
    return SlowEngine()


if __name__ == "__main__":
    engines.create = create
    main()
