"""Silence that is none, and sound that is too much, are known from what a street sounds like."""

from collections.abc import Iterable

import numpy as np
import pytest

from agent.condition import FULL_SCALE, STEP, Inspector, Run
from agent.values import FloatArray

RATE_HZ = 16_000


def noise(seconds: float, level: float = 0.05) -> FloatArray:
    samples: FloatArray = np.random.default_rng(1).normal(0.0, level, round(seconds * RATE_HZ)).astype(np.float32)
    return samples


def full(seconds: float, value: float) -> FloatArray:
    return np.full(round(seconds * RATE_HZ), value, np.float32)


def as_16_bits(samples: FloatArray) -> FloatArray:
    rounded: FloatArray = np.clip(np.round(samples * 32768), -32768, 32767).astype(np.float32) / np.float32(32768)
    return rounded


def joined(runs: Iterable[Run]) -> list[tuple[str, int]]:
    """Runs of one condition put together, however they came."""
    whole: list[tuple[str, int]] = []
    for run in runs:
        if whole and whole[-1][0] == run.condition:
            whole[-1] = (run.condition, whole[-1][1] + run.n_samples)
        else:
            whole.append((run.condition, run.n_samples))
    return whole


def inspected(samples: FloatArray, block_samples: int = 10**9) -> list[tuple[str, int]]:
    inspector = Inspector(RATE_HZ)
    runs: list[Run] = []
    for first in range(0, len(samples), block_samples):
        runs += inspector.push(samples[first : first + block_samples])
    return joined([*runs, *inspector.flush()])


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (noise(1.0), "heard"),
        (noise(1.0, 3 * STEP), "heard"),  # a quiet night in 16 bits
        (full(1.0, 0.0), "zero"),
        ((noise(1.0) > 0).astype(np.float32) * np.float32(STEP), "zero"),  # the last bit toggles
        (full(1.0, 0.3), "constant"),
        (full(1.0, -1.0), "constant"),
        (as_16_bits(noise(1.0, 3.0)), "clipped"),
        (as_16_bits(np.sign(noise(1.0))), "clipped"),
    ],
)
def test_each_condition_is_known(samples: FloatArray, expected: str) -> None:
    """Digital silence, a stuck converter and an overdriven input are told from sound."""
    assert inspected(samples) == [(expected, RATE_HZ)]


def test_a_single_bang_that_clips_is_heard() -> None:
    """A few samples at full scale spoil nothing."""
    samples = noise(1.0)
    samples[5000:5010] = FULL_SCALE

    assert inspected(samples) == [("heard", RATE_HZ)]


@pytest.mark.parametrize("block_samples", [1, 17, 1599, 1600, 1601, 16_000])
def test_block_sizes_do_not_matter(block_samples: int) -> None:
    """However the sound card slices it, each tenth of a second is judged alike, and no sample is left out."""
    samples = np.concatenate([noise(0.33), full(0.5, 0.0), as_16_bits(noise(0.4, 3.0)), full(0.31, 0.2), noise(0.2)])

    runs = inspected(samples, block_samples)

    assert runs == inspected(samples)
    assert sum(n for _, n in runs) == len(samples)
    assert {condition for condition, _ in runs} == {"heard", "zero", "clipped", "constant"}


def test_what_was_begun_before_a_gap_is_judged_by_itself() -> None:
    """At a gap the slice ends: what comes after it has nothing to do with it."""
    inspector = Inspector(RATE_HZ)
    assert list(inspector.push(full(0.05, 0.0))) == []
    assert inspector.begun == 800

    assert list(inspector.flush()) == [Run("zero", 800)]
    assert list(inspector.flush()) == []
    assert list(inspector.push(noise(0.1))) == [Run("heard", 1600)]
