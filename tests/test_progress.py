"""Promises of `agent.progress`: one line that tells how far it is, for a person, and nothing for a file."""

import io
import os
import pty

import pytest

from agent.progress import Progress

CLEAR = "\r\x1b[K"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Timepiece:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def drawn(terminal: Terminal) -> list[str]:
    """What was written, line by line as a person saw it."""
    return [line for line in terminal.getvalue().split(CLEAR) if line]


def progress_of(n_samples: int | None, terminal: io.StringIO, clock: Timepiece, name: str = "street.wav") -> Progress:
    return Progress(name, n_samples, 16_000, stream=terminal, monotonic=clock)


def test_the_bar_grows_and_goes() -> None:
    """At a terminal the line tells part, speed and recording; in the end it is gone."""
    terminal, clock = Terminal(), Timepiece()

    with progress_of(160_000, terminal, clock) as progress:
        for second in (0.5, 1.0):
            clock.now_s = second
            progress.update(round(second * 160_000))

    assert drawn(terminal) == [
        "[###############               ]  50% 10x real time  street.wav",
        "[##############################] 100% 10x real time  street.wav",
    ]
    assert terminal.getvalue().endswith(CLEAR)


def test_a_stream_of_unknown_length_tells_seconds() -> None:
    """Of standard input nobody knows the end; how far it is, is told all the same."""
    terminal, clock = Terminal(), Timepiece()
    progress = progress_of(None, terminal, clock)

    clock.now_s = 2.0
    progress.update(16_000 * 90)

    assert drawn(terminal) == ["90 s 45x real time  street.wav"]


def test_it_is_not_drawn_more_often_than_a_person_can_read() -> None:
    """A thousand updates in a second are some five lines, so that drawing costs no time."""
    terminal, clock = Terminal(), Timepiece()
    progress = progress_of(1_000, terminal, clock)

    for step in range(1_000):
        clock.now_s = step / 1_000
        progress.update(step)

    assert 3 <= len(drawn(terminal)) <= 5


def test_nothing_is_drawn_where_nobody_looks() -> None:
    """A log file or a pipe gets no bar and no control characters."""
    file, clock = io.StringIO(), Timepiece()

    with progress_of(160_000, file, clock) as progress:
        clock.now_s = 10.0
        progress.update(80_000)

    assert file.getvalue() == ""


def test_the_line_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long name is cut: a line that the terminal breaks could not be taken away again."""
    monkeypatch.setenv("COLUMNS", "60")
    terminal, clock = Terminal(), Timepiece()
    progress = progress_of(160_000, terminal, clock, name="long" * 50)

    clock.now_s = 1.0
    progress.update(80_000)

    assert [len(line) for line in drawn(terminal)] == [59]


def test_results_can_be_written_in_between() -> None:
    """Cleared, the line leaves the cursor at the start of an empty line."""
    terminal, clock = Terminal(), Timepiece()
    progress = progress_of(160_000, terminal, clock)
    clock.now_s = 1.0
    progress.update(80_000)

    progress.clear()

    assert terminal.getvalue().endswith("street.wav" + CLEAR)


def test_a_terminal_that_goes_away_stops_nothing() -> None:
    """A replay in the background of a session that has ended goes on, without a bar."""
    master, slave = pty.openpty()
    clock = Timepiece()
    with (
        os.fdopen(slave, "w") as terminal,
        Progress("street.wav", None, 16_000, stream=terminal, monotonic=clock) as progress,
    ):
        os.close(master)
        for clock.now_s in (1.0, 2.0):
            progress.update(16_000)
