"""What condition the sound is in, slice by slice: heard, silent or clipped.

In: blocks of samples. Out: runs of slices in one condition. Stateful, for one stream, and block sizes do not matter.
Called on the pipeline thread, and by `replay`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from agent.values import FloatArray

Condition = Literal["heard", "zero", "constant", "clipped"]

SLICE_S = 0.1
STEP = 2.0**-15  # of 16 bits: what moves no more than this is taken for constant, however its last bit toggles
FULL_SCALE = 0.999
CLIPPED_SHARE = 0.01  # of a slice at full scale: a single bang clips, and is still heard

_CONDITIONS: tuple[Condition, ...] = ("heard", "zero", "constant", "clipped")
_HEARD, _ZERO, _CONSTANT, _CLIPPED = range(4)


@dataclass(frozen=True, slots=True)
class Run:
    """So many samples in one condition.

    Attributes:
        condition: `heard`; `zero`, all of them nothing; `constant`, all of them the same; `clipped`, at full scale.
        n_samples: how many.
    """

    condition: Condition
    n_samples: int


class Inspector:
    """Looks at a stream in slices of `SLICE_S`.

    Args:
        sample_rate_hz: of the samples.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        self._slice = max(1, round(SLICE_S * sample_rate_hz))
        self._begun = np.empty(0, np.float32)

    @property
    def begun(self) -> int:
        """Samples of a slice that is not whole yet."""
        return len(self._begun)

    def push(self, samples: FloatArray) -> Iterator[Run]:
        """Take samples; give the slices that they complete.

        Args:
            samples: float32 (n,), in [-1, 1].
        """
        samples = np.concatenate((self._begun, samples)) if len(self._begun) else samples
        n_whole = len(samples) // self._slice * self._slice
        self._begun = samples[n_whole:].copy()
        return self._runs(samples[:n_whole].reshape(-1, self._slice))  # (n_slices, slice)

    def flush(self) -> Iterator[Run]:
        """There is a gap, or the stream has ended: the slice that was begun is all there is."""
        begun, self._begun = self._begun, np.empty(0, np.float32)
        return self._runs(begun.reshape(1, -1)) if len(begun) else iter(())

    def _runs(self, slices: FloatArray) -> Iterator[Run]:
        if len(slices) == 0:
            return
        n = slices.shape[1]
        lowest, highest = slices.min(axis=1), slices.max(axis=1)  # (n_slices,)
        n_full = np.count_nonzero(np.abs(slices) >= FULL_SCALE, axis=1)
        codes = np.where(n_full > CLIPPED_SHARE * n, _CLIPPED, _HEARD)
        # A signal that stands still is constant at full scale, too.
        still = highest - lowest <= STEP
        codes = np.where(still, np.where(np.maximum(-lowest, highest) <= STEP, _ZERO, _CONSTANT), codes)
        changes = np.flatnonzero(np.diff(codes)) + 1
        for first, end in zip([0, *changes], [*changes, len(codes)], strict=True):
            yield Run(_CONDITIONS[codes[first]], int(end - first) * n)
