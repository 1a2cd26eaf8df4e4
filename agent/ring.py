"""The last seconds of sound, in memory only: the seam between the capture thread and the pipeline thread.

In: mono samples, written by the capture thread, which never waits for the reader. Out: `AudioBlock`s, read by the
pipeline thread. A reader that is too slow loses the oldest samples; they are counted, and the next block says so.
"""

import threading
from collections import deque

import numpy as np

from agent.values import AudioBlock, FloatArray


class Ring:
    """A ring of mono float32 samples for one writing and one reading thread.

    Samples have two numbers. Their *position* counts what was written, and tells where they lie in the buffer. Their
    *index* counts what was lost as well, and is the time that everybody else knows.

    Args:
        capacity_samples: how far the reader may fall behind.

    Raises:
        ValueError: capacity below 1.
    """

    def __init__(self, capacity_samples: int) -> None:
        if capacity_samples < 1:
            raise ValueError(f"capacity_samples = {capacity_samples}, expected at least 1")
        self._buffer = np.zeros(capacity_samples, np.float32)
        # Held for index arithmetic alone; samples are copied outside, so the microphone never waits for a copy.
        self._changed = threading.Condition(threading.Lock())
        self._written = 0  # position after the newest sample
        self._overwriting = 0  # positions before this are being overwritten, or are
        self._read = 0  # position of the next sample to read
        self._read_index = 0  # index after the newest sample that was read
        self._overwritten = 0  # samples the reader has skipped so far, because they were gone
        # (position, samples lost by the device up to there), oldest first; the first one lies not after the reader.
        self._losses: deque[tuple[int, int]] = deque([(0, 0)])
        self._closed = False

    def write(self, samples: FloatArray, lost_before: int = 0) -> None:
        """Take samples; never waits for the reader. After `close` nothing is taken any more.

        Args:
            samples: float32 (n,), in [-1, 1]; they are copied.
            lost_before: samples that the device lost just before these. Without samples, they count for the next.
        """
        n = len(samples)
        capacity = len(self._buffer)
        with self._changed:
            if self._closed:
                return
            start = self._written
            if lost_before > 0:
                self._note_loss(start, lost_before)
            self._overwriting = max(self._overwriting, start + n - capacity)
            self._forget_losses(max(self._overwriting, self._read))
        kept = samples[-capacity:] if n > capacity else samples
        at = (start + n - len(kept)) % capacity
        first = min(len(kept), capacity - at)
        self._buffer[at : at + first] = kept[:first]
        self._buffer[: len(kept) - first] = kept[first:]
        with self._changed:
            # Published last: the reader must never see a count for samples that are not there yet.
            self._written = start + n
            self._changed.notify()

    def close(self) -> None:
        """The stream has ended: what is left can still be read, then `read` returns None without waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def read(self, timeout_s: float, max_samples: int) -> AudioBlock | None:
        """Wait for samples, and take the oldest.

        A block never spans a loss: samples that follow one come in a block of their own, with `lost_before`.

        Args:
            timeout_s: how long to wait when there are none.
            max_samples: the longest block that is wanted, at least 1.

        Returns:
            A block of 1 to `max_samples` samples; None after the timeout, or when the ring is closed and empty.
        """
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._written > self._read or self._closed, timeout_s):
                    return None
                if self._written == self._read:
                    return None
                self._skip_overwritten()
                start, end = self._read, self._next_end(max_samples)
            if end <= start:  # a write longer than the whole ring is under way
                continue
            samples = self._copy(start, end)
            with self._changed:
                # The writer may have come round meanwhile: what it reached is not what it was.
                gone = min(self._skip_overwritten(), end - start)
                if gone < end - start:
                    return self._block(samples[gone:], end)

    @property
    def closed(self) -> bool:
        """Whether the stream has ended. Samples may still be waiting."""
        return self._closed

    @property
    def waiting(self) -> int:
        """Samples that can be read now."""
        with self._changed:
            return max(0, self._written - max(self._read, self._overwriting))

    @property
    def overwritten(self) -> int:
        """Samples lost since the start because the reader was too slow."""
        with self._changed:
            return self._overwritten + max(0, self._overwriting - self._read)

    @property
    def lost(self) -> int:
        """Samples lost since the start, by the device or because the reader was too slow."""
        with self._changed:
            return self._losses[-1][1] + self._overwritten + max(0, self._overwriting - self._read)

    def _note_loss(self, position: int, lost: int) -> None:
        total = self._losses[-1][1] + lost
        if self._losses[-1][0] == position:
            self._losses[-1] = (position, total)
        else:
            self._losses.append((position, total))

    def _forget_losses(self, position: int) -> None:
        while len(self._losses) > 1 and self._losses[1][0] <= position:
            self._losses.popleft()

    def _skip_overwritten(self) -> int:
        skipped = max(0, self._overwriting - self._read)
        self._read += skipped
        self._overwritten += skipped
        self._forget_losses(self._read)
        return skipped

    def _next_end(self, max_samples: int) -> int:
        end = min(self._written, self._read + max_samples)
        return min(end, self._losses[1][0]) if len(self._losses) > 1 else end

    def _copy(self, start: int, end: int) -> FloatArray:
        at = start % len(self._buffer)
        first = self._buffer[at : at + end - start]
        return np.concatenate((first, self._buffer[: end - start - len(first)]))

    def _block(self, samples: FloatArray, end: int) -> AudioBlock:
        samples.flags.writeable = False
        first_sample = self._read + self._losses[0][1]
        block = AudioBlock(samples, first_sample, lost_before=first_sample - self._read_index)
        self._read = end
        self._read_index = first_sample + len(samples)
        return block
