"""The ring hands over every sample once and in order, or says how many are gone."""

import random
import threading
import time

import numpy as np
import pytest

from agent.ring import Ring
from agent.values import AudioBlock, FloatArray

AT_ONCE = 0.0
DEADLINE_S = 20.0
EXACT_IN_FLOAT32 = 1 << 24


def ramp(first: int, n: int) -> FloatArray:
    """Samples whose value tells their index."""
    return (np.arange(first, first + n) % EXACT_IN_FLOAT32).astype(np.float32)


def read(ring: Ring, max_samples: int = 1_000_000) -> AudioBlock:
    block = ring.read(AT_ONCE, max_samples)
    assert block is not None
    return block


def test_a_loss_of_the_device_is_told_and_never_spliced() -> None:
    """Samples on both sides of a loss come in two blocks, and the second says how many are missing between them."""
    ring = Ring(100)
    ring.write(ramp(0, 10))
    ring.write(ramp(15, 10), lost_before=5)

    before, after = read(ring), read(ring)

    assert (before.first_sample, len(before.samples), before.lost_before) == (0, 10, 0)
    assert (after.first_sample, len(after.samples), after.lost_before) == (15, 10, 5)
    np.testing.assert_array_equal(after.samples, ramp(15, 10))


def test_a_late_reader_loses_the_oldest_and_is_told() -> None:
    """When the reader is behind by more than the ring, the newest samples are kept and the others are counted."""
    ring = Ring(100)
    ring.write(ramp(0, 60))
    read(ring, max_samples=10)
    for first in range(60, 360, 60):
        ring.write(ramp(first, 60))
    assert (ring.overwritten, ring.lost, ring.waiting) == (250, 250, 100)

    block = read(ring)

    assert (block.first_sample, block.lost_before) == (260, 250)
    np.testing.assert_array_equal(block.samples, ramp(260, 100))
    assert (ring.overwritten, ring.lost) == (250, 250)


def test_losses_of_both_kinds_add_up() -> None:
    """What the device lost among samples that were then overwritten is part of the same gap."""
    ring = Ring(100)
    ring.write(ramp(0, 50))
    ring.write(ramp(57, 50), lost_before=7)
    ring.write(ramp(110, 80), lost_before=3)

    first, second = read(ring), read(ring)

    assert (first.first_sample, len(first.samples), first.lost_before) == (57 + 30, 20, 57 + 30)
    assert (second.first_sample, len(second.samples), second.lost_before) == (110, 80, 3)
    assert (ring.overwritten, ring.lost) == (80, 90)


@pytest.mark.parametrize(
    ("written_meanwhile", "expected_first", "expected_n"), [(0, 0, 100), (30, 30, 70), (99, 99, 1), (250, 250, 100)]
)
def test_samples_overwritten_while_they_are_copied_are_lost_not_torn(
    monkeypatch: pytest.MonkeyPatch, written_meanwhile: int, expected_first: int, expected_n: int
) -> None:
    """The microphone never waits for a copy: what it overwrites meanwhile is dropped from the block and counted."""
    ring = Ring(100)
    ring.write(ramp(0, 100))
    copy = ring._copy

    def slow_copy(start: int, end: int) -> FloatArray:
        monkeypatch.setattr(ring, "_copy", copy)
        ring.write(ramp(100, written_meanwhile))
        return copy(start, end)

    monkeypatch.setattr(ring, "_copy", slow_copy)

    block = read(ring)

    assert (block.first_sample, len(block.samples), block.lost_before) == (expected_first, expected_n, expected_first)
    np.testing.assert_array_equal(block.samples, ramp(expected_first, expected_n))


def test_every_sample_comes_once_and_in_order_between_two_threads() -> None:
    """A fast writer and a slow reader agree: every sample was read as it was written, or is counted as lost."""
    ring = Ring(3_000)
    lost_by_device = 0
    end = 0

    def write_all() -> None:
        nonlocal lost_by_device, end
        chance = random.Random(1)
        while end < 3_000_000:
            lost = chance.choice([0] * 50 + [100])
            samples = ramp(end + lost, chance.randrange(1, 900))
            ring.write(samples, lost)
            lost_by_device += lost
            end += lost + len(samples)
        ring.close()

    writer = threading.Thread(target=write_all)
    writer.start()
    index = n_read = told = 0
    while (block := ring.read(DEADLINE_S, 700)) is not None:
        assert block.first_sample == index + block.lost_before
        np.testing.assert_array_equal(block.samples, ramp(block.first_sample, len(block.samples)))
        index = block.first_sample + len(block.samples)
        n_read += len(block.samples)
        told += block.lost_before
    writer.join(DEADLINE_S)

    assert index == end
    assert told == ring.lost == lost_by_device + ring.overwritten
    assert n_read + ring.lost == end
    assert ring.waiting == 0


def test_a_waiting_reader_wakes_with_the_first_sample() -> None:
    """The reader sleeps until there is something, and then has it at once."""
    ring = Ring(100)
    blocks: list[AudioBlock | None] = []
    reader = threading.Thread(target=lambda: blocks.append(ring.read(DEADLINE_S, 100)))
    reader.start()

    ring.write(ramp(0, 1))
    reader.join(DEADLINE_S / 2)

    assert [len(block.samples) for block in blocks if block] == [1]


def test_no_sound_is_no_block() -> None:
    """When nothing comes, the reader gets nothing after its timeout, and the stream is still open."""
    ring = Ring(100)
    started = time.monotonic()

    assert ring.read(0.05, 100) is None

    assert time.monotonic() - started >= 0.05
    assert not ring.closed


def test_a_closed_ring_is_drained_and_then_ends() -> None:
    """What was heard before the end is still delivered; later samples are not taken."""
    ring = Ring(100)
    ring.write(ramp(0, 10))
    ring.close()
    ring.write(ramp(10, 10))

    assert len(read(ring).samples) == 10
    assert ring.read(DEADLINE_S, 100) is None
    assert ring.closed


def test_closing_wakes_a_waiting_reader() -> None:
    """Whoever waits for sound learns at once that there will be none."""
    ring = Ring(100)
    reader = threading.Thread(target=lambda: ring.read(DEADLINE_S, 100))
    reader.start()

    ring.close()
    reader.join(DEADLINE_S / 2)

    assert not reader.is_alive()


def test_blocks_are_read_only_and_stay_as_they_are() -> None:
    """A block handed on does not change when the ring comes round."""
    ring = Ring(10)
    ring.write(ramp(0, 10))
    block = read(ring)

    ring.write(ramp(10, 10))

    np.testing.assert_array_equal(block.samples, ramp(0, 10))
    assert not block.samples.flags.writeable
    assert block.samples.dtype == np.float32


def test_a_ring_of_nothing_is_refused() -> None:
    """A capacity below one sample is a mistake that is told."""
    with pytest.raises(ValueError, match="capacity_samples = 0, expected at least 1"):
        Ring(0)
