from enum import Enum
from typing import NamedTuple


class RequestOutputKind(Enum):
    CUMULATIVE = 0
    FINAL_ONLY = 2


class RepetitionDetectionParams(NamedTuple):
    max_pattern_size: int
    min_pattern_size: int
    min_count: int
