"""Aggregation: likelihoods summed over a sliding span of windows.

In: `Prediction`s, one each `window_hop_s`. Out: one `Segment` for each. Called on the pipeline thread, by `replay` and
by `model_export`.

The span is given in seconds, so that more windows in it mean finer steps, not more evidence.
"""

import math
from collections import deque
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from agent.values import FloatArray, Prediction, Segment


class Aggregator:
    """The mean of the newest windows' likelihoods.

    Args:
        span_s: windows that begin within this time are summed; at least one window.
        window_hop_s: from one window to the next.
    """

    def __init__(self, *, span_s: float, window_hop_s: float) -> None:
        self._span_s, self._window_hop_s, self._factor = span_s, window_hop_s, 1
        self._windows: deque[tuple[int, NDArray[np.float64]]] = deque()  # where it begins, likelihoods
        self.widen(1)

    def set_span(self, span_s: float) -> bool:
        """From now on, sum over another span; give whether it is another."""
        if span_s == self._span_s:
            return False
        self._span_s = span_s
        self.widen(self._factor)
        return True

    def widen(self, factor: int) -> None:
        """From now on, windows come so many hops apart."""
        self._factor = factor
        # Half up: with hops of 0.1, 0.2 and 0.5 s, a span of 0.5 s is 5, 3 and 1 windows, centred within 0.1 s.
        n_windows = max(1, math.floor(self._span_s / (factor * self._window_hop_s) + 0.5))
        self._windows = deque(self._windows, maxlen=n_windows)

    def push(self, prediction: Prediction) -> Iterator[Segment]:
        """Take a prediction; give the segment that it completes.

        At the start of a stream, and after a reset, the segment covers the windows that there are.
        """
        self._windows.append((prediction.first_sample, prediction.likelihoods.astype(np.float64)))
        n_windows = len(self._windows)
        # Summed anew each time: a running sum would drift, and the events would depend on how long the agent runs.
        total = np.add.reduce([likelihoods for _, likelihoods in self._windows])  # (n_classes,)
        likelihoods: FloatArray = (total / n_windows).astype(np.float32)
        likelihoods.flags.writeable = False
        yield Segment(
            likelihoods=likelihoods,
            newest=prediction.likelihoods,
            onset=self._windows[0][0],
            offset=prediction.first_sample + prediction.n_samples,
            newest_onset=prediction.first_sample,
            n_windows=n_windows,
        )

    def flush(self) -> Iterator[Segment]:
        """The stream has ended: nothing is held back, so there is nothing more to give."""
        yield from ()

    def reset(self) -> None:
        """There is a gap: forget the windows before it."""
        self._windows.clear()
