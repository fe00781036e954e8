"""``vlmdet`` with the fake engine, which ends its whole process where it is asked about a picture named deadly.png."""

import os
from collections.abc import Iterable, Iterator

from tests.engines.fake_engine import FakeEngine
from vlmdet_cli import engines
from vlmdet_cli.__main__ import main
from vlmdet_cli.engines import Completion, Engine, EngineSettings, Request


class Mortal(FakeEngine):
    def answer(self, requests: Iterable[Request], max_tokens: int) -> Iterator[Completion]:
        for request in requests:
            if request.image.name == "deadly.png":
                os._exit(1)
            yield self._completion(request, max_tokens)


def create(name: str, settings: EngineSettings) -> Engine:
    del name, settings
    return Mortal()


if __name__ == "__main__":
    from tests.engines import infer_with_deadly_picture  # the module by its name, as actors import it

    engines.create = infer_with_deadly_picture.create
    main()
