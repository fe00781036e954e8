"""How far an inference is: rates, time, and the health of the answers so far."""

import time
from collections import Counter
from collections.abc import Callable

from vlmdet_cli.core.answers import Answer, ParsedDetections
from vlmdet_cli.stages.inference.answer_reading import health_of


class InferProgress:
    """Counts the answers of one inference as they come.

    ``done`` of ``total`` rows are answered, those of an earlier inference included. ``health`` counts the detection
    answers of this one as ``health_of`` names them, ``looped`` those of them that repeat themselves. ``last`` is the
    newest answer in words.
    """

    def __init__(self, done: int, total: int) -> None:
        self.done = done
        self.total = total
        self.health = Counter[str]()
        self.looped = 0
        self.last = ""
        self._answers = 0
        self._tokens = 0
        self._started = time.monotonic()

    def add(self, answer: Answer, parsed: ParsedDetections | None, num_tokens: int) -> None:
        """Count an answer; ``parsed`` is None where it is no answer of detection."""
        self.done += 1
        self._answers += 1
        self._tokens += num_tokens
        if parsed is not None:
            self.health[health_of(answer, parsed)] += 1
            self.looped += is_looped(answer, parsed)
        self.last = f"{answer.image}: {in_words(answer, parsed)}"

    def rates(self) -> str:
        """Pictures and generated tokens a second; a picture counts for each prompt that it is read for.

        Without tokens where the engine does not count them.
        """
        seconds = max(time.monotonic() - self._started, 1e-9)
        pictures = f"{self._answers / seconds:,.1f} pictures/s"
        return f"{pictures}, {self._tokens / seconds:,.0f} tokens/s" if self._tokens else pictures

    def shares(self) -> str:
        """The share of each kind of health, and of answers that repeat themselves: ``ok 90%, partial 10%``."""
        counts = [(name, self.health[name]) for name in ("ok", "empty", "partial", "unparsed", "error")]
        total = max(self.health.total(), 1)
        return ", ".join(f"{name} {count / total:.0%}" for name, count in [*counts, ("looped", self.looped)] if count)


OnProgress = Callable[[InferProgress], None]


def is_looped(answer: Answer, parsed: ParsedDetections) -> bool:
    """Whether an answer repeats itself: the engine cut it for that, or the same box comes again and again."""
    return answer.finish == "loop" or any(problem.kind == "loop" for problem in parsed.problems)


def in_words(answer: Answer, parsed: ParsedDetections | None) -> str:
    """What an answer says: its labels with their numbers of boxes, its problems, or its text."""
    if answer.finish == "error":
        return answer.error
    if parsed is None:
        return answer.text
    labels = Counter(detection.label for detection in parsed.detections)
    problems = Counter(problem.kind for problem in parsed.problems)
    words = [f"{count} × {label}" for label, count in labels.items()] or ["no objects" if not problems else answer.text]
    return ", ".join(words) + "".join(f"; {kind} × {count}" for kind, count in problems.items())
