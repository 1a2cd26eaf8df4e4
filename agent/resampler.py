"""Resampling: a stream at the capture rate becomes one at the model's rate. The owner of soxr.

In: the stream in steps of a tenth of a second, always the same for the same stream. Out: what is ready. Called by
`frontend`.
"""

from collections import deque

import numpy as np
import soxr

from agent.values import FloatArray

STEPS_PER_S = 10
LEAD_S = 1  # so much is heard before what is given counts: many times the length of the filter


class Resampler:
    """A stream to the model's rate, step by step, with nothing in it that is older than a period.

    A second after the start, and every period from there, it begins anew from the second before. How a resampler rounds
    depends on where it began; so a stream that was joined begins to round as the one that was heard from its start.
    """

    def __init__(self, from_rate_hz: int, to_rate_hz: int, period_s: int) -> None:
        self._to_rate_hz = to_rate_hz
        self._period = period_s * STEPS_PER_S
        self._stream = soxr.ResampleStream(from_rate_hz, to_rate_hz, num_channels=1, dtype="float32", quality="HQ")
        self._lead: deque[FloatArray] = deque(maxlen=LEAD_S * STEPS_PER_S)
        self.reset()

    def reset(self) -> None:
        """There is a gap: forget the past."""
        self._stream.clear()
        self._lead.clear()
        self._n_steps = 0
        self._n_given = 0
        self._n_again = 0  # that will come, and were given before the stream began anew

    def push(self, step: FloatArray) -> FloatArray:
        """Take a step; give what is ready."""
        n_lead = LEAD_S * STEPS_PER_S
        anew = self._n_steps % self._period == n_lead
        if anew:
            self._stream.clear()
            self._n_again = self._n_given - (self._n_steps - n_lead) // STEPS_PER_S * self._to_rate_hz
        self._n_steps += 1
        resampled = self._stream.resample_chunk(np.concatenate((*self._lead, step)) if anew else step)
        self._lead.append(step)
        return self._not_again(resampled)

    def flush(self, rest: FloatArray) -> FloatArray:
        """The stream ends with this, less than a step; give all that is still inside."""
        return self._not_again(self._stream.resample_chunk(rest, last=True))

    def _not_again(self, resampled: FloatArray) -> FloatArray:
        new = resampled[self._n_again :]
        self._n_again -= len(resampled) - len(new)
        self._n_given += len(new)
        return new
