"""Log lines for a terminal or for systemd's journal.

Out: lines on standard error, for all threads. Set up once, at start, on the main thread. Nobody who hears waits for a
reader: while a terminal is held (Ctrl-S), or a pipe is full that nobody empties, lines are dropped, and counted.
"""

import io
import logging
import os
import select
import sys
from typing import ClassVar, TextIO

PATIENCE_MS = 500  # a terminal at the end of a slow line; not again until it takes lines


class JournalFormatter(logging.Formatter):
    """systemd's journal adds the time itself, and reads the priority from `<N>`; see sd-daemon(3)."""

    PRIORITIES: ClassVar = {
        logging.DEBUG: 7,
        logging.INFO: 6,
        logging.WARNING: 4,
        logging.ERROR: 3,
        logging.CRITICAL: 2,
    }

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message."""
        text = super().format(record).replace("\n", " | ")
        return f"<{self.PRIORITIES.get(record.levelno, 6)}>{text}"


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes lines while somebody takes them."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._n_dropped = 0
        self._poll: select.poll | None = select.poll()
        try:
            self._poll.register(stream, select.POLLOUT)
        except (TypeError, io.UnsupportedOperation):  # it is closed, or no file: nothing to wait for
            self._poll = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write it, and before it how many could not be."""
        if self._poll is not None and not self._poll.poll(0 if self._n_dropped else PATIENCE_MS):
            self._n_dropped += 1
            return
        if self._n_dropped:
            dropped = logging.LogRecord(
                __name__, logging.WARNING, __file__, 0, "logs.dropped lines=%d", (self._n_dropped,), None
            )
            self._n_dropped = 0
            super().emit(dropped)
        super().emit(record)


def log_to_stderr() -> None:
    """Send all that is logged, from level info on, to standard error."""
    handler = LineHandler(_own_stderr())
    if "JOURNAL_STREAM" in os.environ:
        handler.setFormatter(JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _own_stderr() -> TextIO:
    """Standard error by a descriptor of its own.

    While PortAudio looks for devices, sounddevice points the usual one at /dev/null, for all threads (0.5).
    """
    try:
        return os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8", errors="backslashreplace")
    except (AttributeError, io.UnsupportedOperation):  # it is closed; a test has put something else in its place
        return sys.stderr
