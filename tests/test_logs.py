"""Log lines."""

import io
import logging
import os
import pty
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from agent.logs import JournalFormatter, log_to_stderr
from tests.broker import DEADLINE_S


@pytest.fixture(autouse=True)
def same_log_afterwards() -> Iterator[None]:
    """What a test sets up ends with it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.mark.parametrize(
    ("level", "expected"),
    [(logging.DEBUG, "<7>"), (logging.INFO, "<6>"), (logging.WARNING, "<4>"), (logging.ERROR, "<3>"), (25, "<6>")],
)
def test_the_journal_reads_the_priority(level: int, expected: str) -> None:
    """As in sd-daemon(3)."""
    line = JournalFormatter("%(message)s").format(logging.LogRecord("a", level, "", 1, "gap %d", (7,), None))

    assert line == f"{expected}gap 7"


def test_a_message_of_many_lines_is_one_line_for_the_journal() -> None:
    """Only the first line would have a priority."""
    line = JournalFormatter("%(message)s").format(logging.LogRecord("a", logging.INFO, "", 1, "one\ntwo", (), None))

    assert line == "<6>one | two"


def test_where_standard_error_has_no_descriptor_it_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook or a test puts something of its own in its place."""
    own = io.StringIO()
    monkeypatch.setattr(sys, "stderr", own)

    log_to_stderr()
    logging.getLogger("agent").info("mqtt.connected")

    assert own.getvalue().endswith(" INFO mqtt.connected\n")


def held_terminal() -> tuple[int, int, Callable[[], object]]:
    """Its two ends, stopped by Ctrl-S, and what lets it go on."""
    reader, writer = pty.openpty()
    termios.tcflow(writer, termios.TCOOFF)
    return reader, writer, lambda: termios.tcflow(writer, termios.TCOON)


def full_pipe() -> tuple[int, int, Callable[[], object]]:
    """Its two ends, and what empties it."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    n_written = 0
    with suppress(BlockingIOError):
        while True:
            n_written += os.write(writer, b" " * 4096)
    os.set_blocking(writer, True)
    return reader, writer, lambda: [os.read(reader, 4096) for _ in range(n_written // 4096)]


@pytest.mark.parametrize("stuck", [held_terminal, full_pipe])
def test_whoever_hears_does_not_wait_for_whoever_reads_the_log(
    stuck: Callable[[], tuple[int, int, Callable[[], object]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal that is held, or a pipe that nobody empties: lines are dropped, counted, and come again."""
    reader, writer, go_on = stuck()
    with os.fdopen(reader, "rb"), os.fdopen(writer, "w", encoding="utf-8") as own:
        monkeypatch.setattr(sys, "stderr", own)
        log_to_stderr()
        log = logging.getLogger("agent")
        for _ in range(3):
            hearing = threading.Thread(target=log.info, args=("mqtt.connected",), daemon=True)
            hearing.start()
            hearing.join(DEADLINE_S)
            assert not hearing.is_alive()

        go_on()
        log.info("mqtt.away")

        said = b""
        while b"mqtt.away" not in said:
            said += os.read(reader, 4096)
    assert [line.split(" ", 2)[2] for line in said.decode().splitlines()] == [
        "WARNING logs.dropped lines=3",
        "INFO mqtt.away",
    ]
