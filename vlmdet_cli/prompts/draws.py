"""Random numbers of pictures as arrays, the same for a picture alone and among others.

Every picture has a 64-bit key. A stream of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
generators, 2014) starts at each key, so a draw for all pictures is one array expression.
"""

from collections.abc import Callable
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
Uniform = Callable[[], npt.NDArray[np.float64]]  # the next number of each stream, in [0, 1)


def splitmix64(value: Keys) -> Keys:
    """The finalizer of SplitMix64: each bit of the input changes each bit of the output with probability 1/2."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    hashed: Keys = value ^ (value >> np.uint64(31))
    return hashed


def derive_keys(keys: Keys, purpose: str) -> Keys:
    """Other keys (P,) of the same pictures, for a purpose of their own."""
    number = int.from_bytes(blake2b(purpose.encode(), digest_size=8).digest(), "big")
    return splitmix64(keys ^ np.uint64(number))


def uniform_streams(keys: Keys, attempt: int) -> Uniform:
    """A stream of numbers for each key (P,); every attempt has streams of its own."""
    state = splitmix64(keys + np.uint64(attempt * 0xD1342543DE82EF95 % 2**64))

    def draw() -> npt.NDArray[np.float64]:
        nonlocal state
        state = state + np.uint64(0x9E3779B97F4A7C15)
        number: npt.NDArray[np.float64] = (splitmix64(state) >> np.uint64(11)) * 2.0**-53
        return number

    return draw
