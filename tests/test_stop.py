"""Promises of `agent.stop`: a signal is never lost."""

import os
import signal
import subprocess
import sys
import threading
from types import FrameType
from typing import Any

import pytest

from agent.stop import Stop, StopSignals, ended_by_sigterm
from tests.broker import DEADLINE_S, wait_until
from tests.conftest import REPOSITORY


def test_whoever_waits_is_woken_by_another_thread() -> None:
    """A publisher that cannot go on stops the main thread at once, not at its next look."""
    stop = Stop()
    stopper = threading.Timer(0.05, stop.set)
    stopper.start()

    assert stop.wait(DEADLINE_S * 10)
    assert stop.wait(DEADLINE_S * 10), "it stays set"
    stopper.join()


def test_without_a_stop_the_wait_is_over_in_time() -> None:
    """Who waits for a stop that does not come goes on."""
    assert not Stop().wait(0.01)


@pytest.mark.timeout(60)
def test_a_signal_in_the_middle_of_the_wait_does_not_hang() -> None:
    """Wherever in the program a signal hits, the main thread stops, and does not wait for itself for ever."""

    def waited_with_a_signal_at(place: int) -> bool:
        """Wait, and have the signal come before that line of the wait; give whether there was that line."""
        seen = 0

        def trace(frame: FrameType, what: str, _: object) -> Any:  # noqa: ANN401  sys.settrace's own type
            nonlocal seen
            seen += 1
            if seen == place:
                signal.raise_signal(signal.SIGTERM)
            return trace

        with StopSignals() as signals:
            to_end_the_last = threading.Timer(0.2, signals.stop.set)
            to_end_the_last.start()
            before = sys.gettrace()
            sys.settrace(trace)
            try:
                assert signals.stop.wait(DEADLINE_S)
            finally:
                sys.settrace(before)
            to_end_the_last.cancel()
            return signals.received == signal.SIGTERM

    place = 1
    while waited_with_a_signal_at(place):
        place += 1
    assert place > 4


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_noted_and_the_old_handlers_come_back(number: signal.Signals, code: int) -> None:
    """Ctrl-C and `systemctl stop` become a stop and an exit code; afterwards Ctrl-C is what it was."""
    before = signal.getsignal(number)

    with StopSignals() as signals:
        assert (signals.stop.is_set(), signals.exit_code) == (False, 0)
        os.kill(os.getpid(), number)
        assert signals.stop.wait(DEADLINE_S)

    assert signals.exit_code == code
    assert signal.getsignal(number) is before


def test_a_hang_up_is_a_request_and_no_stop() -> None:
    """SIGHUP goes to who asked for it; who did not is left with what was there."""
    before = signal.getsignal(signal.SIGHUP)
    asked = []

    with StopSignals(on_hangup=lambda: asked.append(True)) as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        wait_until(lambda: asked, "the signal")
        stopped = signals.stop.is_set()
    with StopSignals():
        assert signal.getsignal(signal.SIGHUP) is before

    assert not stopped
    assert signal.getsignal(signal.SIGHUP) is before


def test_when_the_terminal_goes_the_listening_ends() -> None:
    """Who closes the window of a sensor that was started by hand is not listened to any more: 129."""
    program = """
import signal, sys
from agent.stop import StopSignals
with StopSignals(on_hangup=lambda: print("asked", flush=True)) as signals:
    print("listens", flush=True)
    signal.raise_signal(signal.SIGHUP)
    signals.stop.wait(60.0)
sys.exit(signals.exit_code)
"""
    here, terminal = os.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", program], cwd=REPOSITORY, stdin=terminal, stdout=subprocess.PIPE, start_new_session=True
    )
    os.close(terminal)
    try:
        assert child.stdout is not None
        said = [child.stdout.readline(), child.stdout.readline()]
        os.close(here)
        child.send_signal(signal.SIGHUP)

        assert child.wait(DEADLINE_S) == 129
    finally:
        child.kill()
        child.wait()
    assert said == [b"listens\n", b"asked\n"], "with the terminal there, it is a request"
    assert child.stdout.read() == b""


def test_sigterm_unwinds_what_is_under_way() -> None:
    """Whoever must leave nothing behind can clean up; afterwards the old handler is back."""
    before = signal.getsignal(signal.SIGTERM)

    with pytest.raises(SystemExit) as ended, ended_by_sigterm():
        signal.raise_signal(signal.SIGTERM)

    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


WAITS_FOR_ITS_PARENT = """
import sys, time
from multiprocessing.connection import Connection
from agent.stop import end_with
end_with(Connection(int(sys.argv[1])))
print("waits", flush=True)
time.sleep(60)
"""


def test_a_process_ends_when_the_other_one_lets_go() -> None:
    """And be it killed: the end of a pipe is closed either way."""
    reader, writer = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-c", WAITS_FOR_ITS_PARENT, str(reader)], pass_fds=[reader], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "waits\n"
    assert child.poll() is None

    os.close(writer)

    assert child.wait(DEADLINE_S) == 1
    child.stdout.close()
    os.close(reader)
