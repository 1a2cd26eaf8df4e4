"""When to stop: signals, turned into something that a thread can wait for. The owner of signals.

In: SIGINT, SIGTERM and SIGHUP. Out: a `Stop`, which any thread may set and one waits for. Handlers run on the main
thread.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, NoReturn, Self

STDIN = 0


class Stop:
    """Set once, by any thread or a signal handler; one thread waits for it.

    A `threading.Event` would deadlock where a signal comes while the main thread is inside its `wait`: the handler's
    `set` needs the lock that `wait` holds. `SimpleQueue.put` is made for handlers.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._wake: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Whoever waits goes on."""
        self._is_set = True
        self._wake.put(None)

    def is_set(self) -> bool:
        """Whether it is time to stop."""
        return self._is_set

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is set, at most so long; give whether it is."""
        if not self._is_set:
            with suppress(Empty):
                self._wake.get(timeout=timeout_s)
        return self._is_set


class StopSignals:
    """Turns SIGINT and SIGTERM into a `Stop`; afterwards the old handlers are back.

    Args:
        on_hangup: called, from the handler, at SIGHUP; None leaves SIGHUP alone. The SIGHUP of a terminal that has gone
            is a stop.
    """

    def __init__(self, on_hangup: Callable[[], None] | None = None) -> None:
        self.stop = Stop()
        self.received: int | None = None
        self._on_hangup = on_hangup
        self._had_terminal = os.isatty(STDIN)
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        if self._on_hangup is not None:
            self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._hang_up)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal gave us

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        self.stop.set()

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        if self._had_terminal and not os.isatty(STDIN):  # nobody is there any more who could stop the listening
            self._note(number, frame)
        elif self._on_hangup is not None:
            self._on_hangup()

    @property
    def exit_code(self) -> int:
        """0, or 128 and the number of the signal."""
        return 0 if self.received is None else 128 + self.received


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """While it lasts, SIGTERM ends the work as Ctrl-C does, so that neither a process nor a folder is left."""

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_with(other: Any) -> None:  # noqa: ANN401  whatever `multiprocessing` can wait for
    """From now on, end this process when the other one does, or lets go of it, and be it by a kill.

    Args:
        other: the sentinel of a process, or a pipe whose other end it holds.
    """
    from multiprocessing import connection  # children alone need it

    def end() -> None:
        connection.wait([other])
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()
