"""How many requests a server gets at once: more while it answers, fewer when it is slow or refuses.

The limit doubles until the server first shows that it is enough, then grows by one for each limit of answers and
shrinks by a third for each trouble: additive increase, multiplicative decrease. Of requests that were sent together
only the first trouble counts.
"""

import random
import time
from collections.abc import Callable

FIRST_LIMIT = 16  # a server of unknown power begins with as many
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds
_DECREASE = 2 / 3


class Load:
    """The load of one server. ``most``: the largest limit. ``slow``: an answer that takes longer, in seconds, is a
    trouble.
    """

    def __init__(self, most: int, slow: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = float(min(FIRST_LIMIT, most))
        self.in_flight = 0
        self.answered = 0
        self.paused_until = 0.0
        self._most, self._slow, self._clock = most, slow, clock
        self._refusals = 0
        self._full_at = 0.0
        self._shrunk_at: float | None = None

    def free(self) -> int:
        """The number of requests that the server may get now."""
        return 0 if self._clock() < self.paused_until else int(self.limit) - self.in_flight

    def sent(self) -> float:
        """Count a request; what is returned belongs to its end."""
        self.in_flight += 1
        now = self._clock()
        if self.in_flight >= int(self.limit):
            self._full_at = now
        return now

    def ended_well(self, sent: float) -> None:
        self.in_flight -= 1
        self.answered += 1
        self._refusals = 0
        if self._clock() - sent > self._slow:
            self._shrink(sent)
        elif sent <= self._full_at:  # a limit that is not reached proves nothing
            step = 1 / self.limit if self._shrunk_at is not None else 1
            self.limit = min(self.limit + step, float(self._most))

    def ended_in_trouble(self, sent: float) -> None:
        self.in_flight -= 1
        self._shrink(sent)

    def ended(self) -> None:
        """Count the end of a request that says nothing of the server's load."""
        self.in_flight -= 1

    def refused(self, sent: float, wait: float | None) -> None:
        """The server has too much to do. ``wait``: the seconds that it asks for, None where it says nothing."""
        if sent >= self.paused_until:
            self._refusals += 1
        self.ended_in_trouble(sent)
        pause = backoff(self._refusals) if wait is None else wait
        self.paused_until = max(self.paused_until, self._clock() + pause)

    def _shrink(self, sent: float) -> None:
        if self._shrunk_at is None or sent >= self._shrunk_at:
            self._shrunk_at = self._clock()
            self.limit = max(1.0, self.limit * _DECREASE)


def backoff(failures: int) -> float:
    """Seconds before the next attempt after so many failures: doubled each time, and never the same for all."""
    longest: float = min(FIRST_WAIT * 2 ** max(failures - 1, 0), LONGEST_WAIT)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  (no secret)
