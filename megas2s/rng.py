"""Randomness with an address: every random value is a pure function of a seed and a few names.

    generator(seed, "corrupt", stage, n)      the noise of sample n
    Permutation(size, seed, "block", 7)[i]    where i goes in a shuffle that is never stored

No module draws from a global generator and no generator's state is ever saved.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from typing import cast

import numpy as np
from numpy.random.bit_generator import ISeedSequence

MASK = (1 << 64) - 1
ROUNDS = 6
SMALL = 1024  # a shuffle up to this size is stored: a Feistel network over a handful of points is far from uniform


def address_hash(seed: int, *address: int | str) -> int:
    """128 bits that depend on every part of the address and on their order."""
    return int.from_bytes(_digest(seed, address, 16), "little")


def generator(seed: int, *address: int | str) -> np.random.Generator:
    """A NumPy generator for one address; the same address gives the same draws on every machine."""
    state = cast(np.random.SeedSequence, _State(_digest(seed, address, 32)))  # numpy's stubs leave the interface out
    return np.random.Generator(np.random.PCG64DXSM(state))


def torch_seed(seed: int, *address: int | str) -> int:
    """A 63-bit seed for `torch.manual_seed`."""
    return address_hash(seed, *address) >> 65


class Permutation:
    """A pseudorandom bijection of 0 ... size-1 in O(1) memory at any size.

    A Feistel network over Z_a x Z_b with a*b just above `size`, additions instead of XOR so that a and b
    need not be powers of two, and cycle walking for the few points past the end (Black & Rogaway 2002).
    """

    def __init__(self, size: int, seed: int, *address: int | str) -> None:
        if size < 1:
            raise ValueError(f"a permutation needs at least one element, got {size}")
        self.size = size
        self._width = math.isqrt(size - 1) + 1
        self._height = -(-size // self._width)
        key = address_hash(seed, *address)
        self._keys = [_mix((key >> (16 * turn)) + turn) for turn in range(ROUNDS)]
        points = range(size) if size <= SMALL else range(0)
        self._order = array("H", sorted(points, key=lambda point: _mix(self._keys[0] ^ _mix(point))))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.size:
            raise IndexError(f"{index} is outside a permutation of {self.size}")
        if self._order:
            return self._order[index]
        width, height = self._width, self._height
        while True:
            left, right = divmod(index, height)
            for turn in range(0, ROUNDS, 2):
                left = (left + _mix(right ^ self._keys[turn])) % width
                right = (right + _mix(left ^ self._keys[turn + 1])) % height
            index = left * height + right
            if index < self.size:
                return index


class _State(ISeedSequence):
    """Hands a bit generator 256 hashed bits as they are. NumPy's own SeedSequence would hash them again, slowly."""

    def __init__(self, bits: bytes) -> None:
        self._bits = bits

    def generate_state(self, n_words: int, dtype: object = np.uint64) -> np.ndarray:
        return np.frombuffer(self._bits, dtype="<u8", count=n_words)


def _digest(seed: int, address: tuple[int | str, ...], size: int) -> bytes:
    text = "\x1f".join((str(seed), *(f"{type(part).__name__[0]}{part}" for part in address)))
    return hashlib.blake2b(text.encode(), digest_size=size).digest()


def _mix(value: int) -> int:
    """The finaliser of splitmix64: each input bit reaches each output bit."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)
