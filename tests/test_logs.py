"""Log lines."""

import io
import logging
import sys
from collections.abc import Iterator

import pytest

from agent.logs import JournalFormatter, log_to_stderr


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
