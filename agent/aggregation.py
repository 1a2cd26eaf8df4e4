"""Aggregation: likelihoods summed over a sliding span of windows.

In: `Prediction`s, one each `window_hop_s`. Out: one `Segment` for each. Called on the pipeline thread, by `replay` and
by `model_export`.

Each class has a span of its own: a bark is over before a hum has become sure. Spans are given in seconds, so that more
windows in one mean finer steps, not more evidence.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from agent.values import FloatArray, Prediction, SampleArray, Segment

Columns = NDArray[np.intp]


class Aggregator:
    """The mean of the newest windows' likelihoods.

    Args:
        spans_s: of each class, in the order of the likelihoods: windows that begin within this time are summed; at
            least one window.
        window_hop_s: from one window to the next.
    """

    def __init__(self, *, spans_s: Sequence[float], window_hop_s: float) -> None:
        self._spans_s, self._window_hop_s, self._factor = tuple(spans_s), window_hop_s, 1
        self._windows: deque[tuple[int, NDArray[np.float64]]] = deque()  # where it begins, likelihoods
        self._of_span: dict[int, Columns] = {}  # by how many windows are summed, the classes for which they are
        self.widen(1)

    def set_spans(self, spans_s: Sequence[float]) -> None:
        """From now on, sum over other spans."""
        if tuple(spans_s) != self._spans_s:
            self._spans_s = tuple(spans_s)
            self.widen(self._factor)

    def widen(self, factor: int) -> None:
        """From now on, windows come so many hops apart."""
        self._factor = factor
        # Half up: with hops of 0.1, 0.2 and 0.5 s, a span of 0.5 s is 5, 3 and 1 windows, centred within 0.1 s.
        n_windows = [max(1, math.floor(span_s / (factor * self._window_hop_s) + 0.5)) for span_s in self._spans_s]
        self._of_span = {n: np.flatnonzero(np.array(n_windows) == n) for n in sorted(set(n_windows))}
        self._windows = deque(self._windows, maxlen=max(n_windows))

    def push(self, prediction: Prediction) -> Iterator[Segment]:
        """Take a prediction; give the segment that it completes.

        At the start of a stream, and after a reset, the segment covers the windows that there are.
        """
        self._windows.append((prediction.first_sample, prediction.likelihoods.astype(np.float64)))
        windows = list(self._windows)
        likelihoods: FloatArray = np.empty(len(self._spans_s), np.float32)
        onsets: SampleArray = np.empty(len(self._spans_s), np.int64)
        for n, classes in self._of_span.items():
            in_span = windows[-n:]
            # Summed anew each time: a running sum would drift, and the events would depend on how long the agent runs.
            total = np.add.reduce([one for _, one in in_span])  # (n_classes,)
            likelihoods[classes] = (total[classes] / len(in_span)).astype(np.float32)
            onsets[classes] = in_span[0][0]
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
        self._windows.clear()
