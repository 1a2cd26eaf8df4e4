"""Aggregation: likelihoods summed over a sliding span of windows.

In: `Prediction`s, one each `window_hop_s`. Out: one `Segment` for each. Called on the pipeline thread, by `replay` and
by `model_export`.

Each class has a span of its own: a bark is over before a hum has become sure. Spans are given in seconds, so that more
windows in one mean finer steps, not more evidence.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from agent.values import FloatArray, Prediction, SampleArray, Segment


class Aggregator:
    """The mean of the newest windows' likelihoods.

    Args:
        spans_s: of each class, in the order of the likelihoods: windows that begin within this time are summed; at
            least one window.
        window_hop_s: from one window to the next.
    """

    def __init__(self, *, spans_s: Sequence[float], window_hop_s: float) -> None:
        self._spans_s, self._window_hop_s = tuple(spans_s), window_hop_s
        # Of the windows of the longest span, the newest last: their likelihoods, (n_windows, n_classes), and where they
        # begin. So many of them are there; before these stand zeros.
        self._likelihoods: NDArray[np.float64] = np.zeros((0, len(self._spans_s)))
        self._onsets: SampleArray = np.zeros(0, np.int64)
        self._n_kept = 0
        self.widen(1)

    def set_spans(self, spans_s: Sequence[float]) -> None:
        """From now on, sum over other spans."""
        self._spans_s = tuple(spans_s)
        self.widen(self._factor)

    def widen(self, factor: int) -> None:
        """From now on, windows come so many hops apart."""
        self._factor = factor
        # Half up: with hops of 0.1, 0.2 and 0.5 s, a span of 0.5 s is 5, 3 and 1 windows, centred within 0.1 s.
        counts = [max(1, math.floor(span_s / (factor * self._window_hop_s) + 0.5)) for span_s in self._spans_s]
        longest = max(counts)
        self._n_kept = min(self._n_kept, longest)
        kept = slice(len(self._onsets) - self._n_kept, None)
        n_before = longest - self._n_kept
        self._likelihoods = np.pad(self._likelihoods[kept], ((n_before, 0), (0, 0)))
        self._onsets = np.pad(self._onsets[kept], (n_before, 0))
        self._n_windows = np.array(counts)  # (n_classes,)
        self._in_span = (np.arange(longest, 0, -1)[:, None] <= self._n_windows).astype(np.float64)

    def push(self, prediction: Prediction) -> Iterator[Segment]:
        """Take a prediction; give the segment that it completes.

        At the start of a stream, and after a reset, the segment covers the windows that there are.
        """
        self._likelihoods[:-1], self._likelihoods[-1] = self._likelihoods[1:], prediction.likelihoods
        self._onsets[:-1], self._onsets[-1] = self._onsets[1:], prediction.first_sample
        self._n_kept = min(self._n_kept + 1, len(self._onsets))
        n_windows = np.minimum(self._n_windows, self._n_kept)
        # Summed anew each time: a running sum would drift, and the events would depend on how long the agent runs.
        total = (self._likelihoods * self._in_span).sum(axis=0)  # (n_classes,)
        likelihoods: FloatArray = (total / n_windows).astype(np.float32)
        onsets: SampleArray = self._onsets[-n_windows]
        likelihoods.flags.writeable = onsets.flags.writeable = False
        yield Segment(
            likelihoods=likelihoods,
            newest=prediction.likelihoods,
            onsets=onsets,
            offset=prediction.first_sample + prediction.n_samples,
            newest_onset=prediction.first_sample,
        )

    def flush(self) -> Iterator[Segment]:
        """The stream has ended: nothing is held back, so there is nothing more to give."""
        yield from ()

    def reset(self) -> None:
        """There is a gap: forget the windows before it."""
        self._likelihoods[:] = 0.0
        self._n_kept = 0
