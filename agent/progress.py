"""A progress bar for a person at a terminal; nothing where nobody looks.

In: how far a recording is analysed. Out: one line on standard error, redrawn some times a second.
"""

import shutil
import sys
import time
from collections.abc import Callable
from typing import Self, TextIO

from agent.printout import let_go

REDRAW_S = 0.2
WIDTH = 30


class Progress:
    """One recording's progress.

    Args:
        name: of the recording.
        n_samples: its length; None where nobody knows.
        sample_rate_hz: samples per second.
        stream: where to draw; only if it is a terminal.
        monotonic: for tests.
    """

    def __init__(
        self,
        name: str,
        n_samples: int | None,
        sample_rate_hz: int,
        *,
        stream: TextIO | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._n_samples, self._sample_rate_hz = name, n_samples, sample_rate_hz
        self._stream = stream or sys.stderr
        self._monotonic = monotonic
        self._started = self._drawn = monotonic()
        self._seen = self._stream.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def clear(self) -> None:
        """Take the line away: something else is to be written to the terminal."""
        if self._seen:
            self._draw("")

    def update(self, analysed_samples: int) -> None:
        """So many samples are analysed."""
        now = self._monotonic()
        if not self._seen or now - self._drawn < REDRAW_S:
            return
        self._drawn = now
        done_s = analysed_samples / self._sample_rate_hz
        speed = done_s / max(1e-9, now - self._started)
        if self._n_samples:
            part = min(1.0, analysed_samples / self._n_samples)
            bar = "#" * round(part * WIDTH)
            how_far = f"[{bar:{WIDTH}}] {part:4.0%}"
        else:
            how_far = f"{done_s:.0f} s"
        line = f"{how_far} {speed:.0f}x real time  {self._name}"
        # A line that the terminal breaks could not be taken away again.
        self._draw(line[: shutil.get_terminal_size().columns - 1])

    def _draw(self, line: str) -> None:
        try:
            self._stream.write("\r\x1b[K" + line)
            self._stream.flush()
        except OSError:  # the terminal has gone
            self._seen = False
            let_go(self._stream)
