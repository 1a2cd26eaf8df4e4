"""Log lines for a terminal or for systemd's journal.

Out: lines on standard error, for all threads. Set up once, at start, on the main thread.
"""

import io
import logging
import os
import sys
from typing import ClassVar, TextIO


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


def log_to_stderr() -> None:
    """Send all that is logged, from level info on, to standard error."""
    handler = logging.StreamHandler(_own_stderr())
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
