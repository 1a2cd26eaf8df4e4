"""The front end against itself on the whole stream at once: how sound is sliced does not matter."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from agent.frontend import FrontEnd
from agent.values import AudioBlock, FloatArray, Window
from tests.test_frontend import NUMBERS, RATES_HZ

HOP_S = 0.1
FEW_BANDS = NUMBERS.model_copy(update={"n_mels": 8})


def noise(n: int) -> FloatArray:
    return np.clip(np.random.default_rng(11).normal(0.0, 0.1, n), -1.0, 1.0).astype(np.float32)


def sliced(samples: FloatArray, lengths: Sequence[int], first_sample: int) -> list[AudioBlock]:
    """Blocks of these lengths over and over, until the samples are used up."""
    blocks: list[AudioBlock] = []
    start = 0
    while start < len(samples):
        n = lengths[len(blocks) % len(lengths)]
        blocks.append(AudioBlock(samples[start : start + n], first_sample + start))
        start += n
    return blocks


def windows_of(front_end: FrontEnd, blocks: Sequence[AudioBlock]) -> list[Window]:
    return [*(window for block in blocks for window in front_end.push(block)), *front_end.flush()]


def same(some_windows: Sequence[Window], others: Sequence[Window]) -> None:
    assert [(window.first_sample, window.n_samples) for window in some_windows] == [
        (window.first_sample, window.n_samples) for window in others
    ]
    for window, other in zip(some_windows, others, strict=True):
        np.testing.assert_array_equal(window.log_mel, other.log_mel)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@given(
    lengths=some.lists(some.integers(1, 30_000), min_size=1, max_size=8).filter(lambda lengths: sum(lengths) > 500),
    n_samples=some.integers(0, 120_000),
    first_sample=some.integers(0, 1 << 40),
)
def test_windows_do_not_depend_on_how_sound_is_sliced(
    rate_hz: int, lengths: list[int], n_samples: int, first_sample: int
) -> None:
    """The same sound gives the same windows to the last bit, in whatever blocks it comes, at every rate."""
    samples = noise(n_samples)
    front_end = FrontEnd(FEW_BANDS, capture_rate_hz=rate_hz, window_hop_s=HOP_S)
    expected = windows_of(front_end, [AudioBlock(samples, first_sample)] if n_samples else [])
    front_end.reset()

    same(windows_of(front_end, sliced(samples, lengths, first_sample)), expected)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@given(n_before=some.integers(0, 100_000), n_after=some.integers(1, 60_000), flushed=some.booleans())
def test_after_a_gap_nothing_is_left_of_what_was_before(
    rate_hz: int, n_before: int, n_after: int, flushed: bool
) -> None:
    """A stream after a reset is the stream of a new front end, wherever the one before it was broken off."""
    front_end = FrontEnd(FEW_BANDS, capture_rate_hz=rate_hz, window_hop_s=HOP_S)
    before = list(front_end.push(AudioBlock(noise(n_before), 0)))
    if flushed:
        before += front_end.flush()
    front_end.reset()
    block = AudioBlock(noise(n_after)[::-1].copy(), 1_000_000)

    fresh = FrontEnd(FEW_BANDS, capture_rate_hz=rate_hz, window_hop_s=HOP_S)
    same(windows_of(front_end, [block]), windows_of(fresh, [block]))
    assert all(window.first_sample + window.n_samples <= max(n_before, 0) for window in before)
