"""Random draws that depend only on what they are for: batch k of a stage draws the same under every configuration."""

from __future__ import annotations

from headway.sim.items import stream
from headway.sim.jit import kernel

_MASK = 0xFFFFFFFF


@kernel
def draw(key: int, index: int, bits: int) -> int:
    """Return the `index`-th draw of the stream `key`: a whole number below 2**bits (32-bit finaliser of Wellons).

    >>> draw(1, 7, 8) == draw(1, 7, 8)
    True
    """
    # Python integers: uncompiled, NumPy's would overflow where a compiled kernel quietly wraps.
    x = (int(index) * 0x9E3779B1 + int(key)) & _MASK
    x ^= x >> 16
    x = (x * 0x7FEB352D) & _MASK
    x ^= x >> 15
    x = (x * 0x846CA68B) & _MASK
    x ^= x >> 16
    return x >> (32 - bits)


def batch_key(seed: int, stage: str) -> int:
    """Return the key of a stage's batch draws under `seed`."""
    return int(stream(seed, f"batch:{stage}").integers(1 << 32))


def bits_for(columns: int) -> int:
    """Return how many bits index a table of so many columns, a power of two.

    >>> bits_for(256)
    8
    """
    return (columns - 1).bit_length()
