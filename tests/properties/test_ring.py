"""The ring against a plain list of samples."""

import random
from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from agent.ring import Ring
from agent.values import FloatArray

AT_ONCE = 0.0
EXACT_IN_FLOAT32 = 1 << 24

Write = tuple[int, int]  # samples, lost before
Step = Write | int  # or a read of at most so many

capacities = some.sampled_from([1, 2, 7, 64, 1000])


def steps_of(capacity: int) -> some.SearchStrategy[list[Step]]:
    losses = some.sampled_from([0, 0, 0, 1, 3, 10_000_000_000])
    writes = some.tuples(some.integers(0, 2 * capacity + 2), losses)
    return some.lists(writes | some.integers(1, 2 * capacity + 2), max_size=60)


def ramp(first: int, n: int) -> FloatArray:
    """Samples whose value tells their index."""
    return (np.arange(first, first + n) % EXACT_IN_FLOAT32).astype(np.float32)


class PlainList:
    """What a ring should do: a list of samples with their indices."""

    def __init__(self, capacity_samples: int) -> None:
        self.kept: deque[tuple[int, float]] = deque(maxlen=capacity_samples)
        self.index = self.read_index = self.n_read = 0

    def write(self, samples: FloatArray, lost_before: int) -> None:
        self.index += lost_before
        for value in samples:
            self.kept.append((self.index, float(value)))
            self.index += 1

    def read(self, max_samples: int) -> tuple[list[float], int, int] | None:
        if not self.kept:
            return None
        first = self.kept[0][0]
        values: list[float] = []
        while self.kept and len(values) < max_samples and self.kept[0][0] == first + len(values):
            values.append(self.kept.popleft()[1])
        lost_before = first - self.read_index
        self.read_index = first + len(values)
        self.n_read += len(values)
        return values, first, lost_before

    @property
    def lost(self) -> int:
        return self.index - self.n_read - len(self.kept)


@given(some.data())
def test_the_ring_does_what_a_plain_list_would(data: some.DataObject) -> None:
    """However writes, reads and losses alternate, each block is the one that a plain list of samples gives."""
    capacity = data.draw(capacities)
    ring, plain = Ring(capacity), PlainList(capacity)
    for step in data.draw(steps_of(capacity)):
        if isinstance(step, tuple):
            n, lost_before = step
            samples = ramp(plain.index + lost_before, n)
            ring.write(samples, lost_before)
            plain.write(samples, lost_before)
        else:
            expected, block = plain.read(step), ring.read(AT_ONCE, step)
            assert (block is None) == (expected is None)
            if block is not None:
                assert (block.samples.tolist(), block.first_sample, block.lost_before) == expected
        assert (ring.waiting, ring.lost) == (len(plain.kept), plain.lost)


@given(some.data())
def test_every_sample_is_read_or_counted_as_lost(data: some.DataObject) -> None:
    """Whatever happened, when the ring is closed and empty the samples read and those counted as lost are all."""
    capacity = data.draw(capacities)
    ring = Ring(capacity)
    n_read = n_told = index = 0

    def take(max_samples: int) -> bool:
        nonlocal n_read, n_told
        block = ring.read(AT_ONCE, max_samples)
        if block is not None:
            np.testing.assert_array_equal(block.samples, ramp(block.first_sample, len(block.samples)))
            n_read += len(block.samples)
            n_told += block.lost_before
        return block is not None

    for step in data.draw(steps_of(capacity)):
        if isinstance(step, tuple):
            n, lost_before = step
            ring.write(ramp(index + lost_before, n), lost_before)
            # A loss with nothing after it is told with the next samples; there may be none.
            index += n + lost_before
        else:
            take(step)
    ring.write(ramp(index, 1))
    ring.close()
    while take(capacity):
        pass

    assert n_read + n_told == index + 1
    assert ring.lost == n_told


@pytest.mark.parametrize("seed", range(5))
def test_long_histories_are_no_different(seed: int) -> None:
    """The same over four hundred steps, in which losses have been forgotten many times over."""
    chance = random.Random(seed)
    capacity = chance.choice([7, 64])
    ring, plain = Ring(capacity), PlainList(capacity)
    for _ in range(400):
        n, lost_before = chance.randrange(2 * capacity + 2), chance.choice([0, 0, 0, 1, 3])
        samples = ramp(plain.index + lost_before, n)
        ring.write(samples, lost_before)
        plain.write(samples, lost_before)
        max_samples = chance.randrange(1, 2 * capacity + 2)
        expected, block = plain.read(max_samples), ring.read(AT_ONCE, max_samples)
        assert (None if block is None else (block.samples.tolist(), block.first_sample, block.lost_before)) == expected
