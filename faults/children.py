"""Processes of the campaign: each is ended by its own id, and everything has a time limit.

In: a command. Out: a child with its log; a mosquitto that can be killed, frozen and started again on its port.
"""

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agent.errors import AgentError

HOST = "127.0.0.1"
START_LIMIT_S = 30.0
SBIN = "/usr/sbin:/usr/local/sbin:/sbin"  # where Debian puts mosquitto and ip; not in a user's PATH


class MissingError(AgentError):
    """Something has to be installed first, or may not be done here."""

    exit_code = 69


class CampaignError(AgentError):
    """The campaign itself cannot go on: what should come does not."""


def program(name: str) -> Path:
    """Where a program is.

    Raises:
        MissingError: it is not installed.
    """
    found = shutil.which(name) or shutil.which(name, path=SBIN)
    if found is None:
        raise MissingError(f"{name} is not installed; sudo apt-get install {name}")
    return Path(found)


def wait_until(true: Callable[[], object], what: str, limit_s: float = START_LIMIT_S) -> float:
    """Wait for the thing itself; give how long it took, in seconds.

    Raises:
        CampaignError: it does not come.
    """
    began_s = time.monotonic()
    while not true():
        if time.monotonic() - began_s > limit_s:
            raise CampaignError(f"waited {limit_s:g} s for {what}")
        time.sleep(0.005)
    return time.monotonic() - began_s


def free_port(host: str = HOST) -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


class Child:
    """A child process that can be signalled, and whose output goes to a log.

    Args:
        command: the program and its arguments.
        log: its standard output and error are appended to this file.
        environment: all of it.
    """

    def __init__(self, command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=None if environment is None else dict(environment),
            )
        self.log = log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        """Send it a signal; harmless when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it without notice, also where it is frozen."""
        self.signal(signal.SIGKILL)
        self._process.wait(START_LIMIT_S)

    def stop(self, limit_s: float = START_LIMIT_S) -> int:
        """Ask it to end; give its exit code.

        Raises:
            CampaignError: it does not end; it is killed then.
        """
        self.signal(signal.SIGTERM)
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise CampaignError(f"{self.log.name}: did not end within {limit_s:g} s after SIGTERM") from None

    def said(self, text: str) -> int:
        """How often its log holds a text."""
        return self.log.read_text(encoding="utf-8", errors="replace").count(text)


class Broker:
    """One mosquitto that writes its sessions to disk, as a broker in the field should.

    Args:
        folder: configuration, log and sessions.
        keep_sessions: whether sessions and what waits for them survive its death.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._log = folder / "mosquitto.log"
        self._configuration = folder / "mosquitto.conf"
        self._configuration.write_text(
            "user root\n"  # else a broker that root starts may not write into our folder
            f"listener {self.port} {HOST}\nallow_anonymous true\nlog_dest stderr\n"
            f"persistence true\npersistence_location {folder}/\nautosave_interval 1\nautosave_on_changes true\n"
            "max_queued_messages 1000000\nmax_inflight_messages 0\n"  # else it drops, with a log line alone
        )
        self._program = program("mosquitto")
        self._child: Child | None = None

    def start(self) -> None:
        """On the same port each time."""
        self._child = Child([self._program, "-c", self._configuration], self._log)
        wait_until(self._answers, "mosquitto to listen")

    def kill(self) -> None:
        """The end without notice."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        assert self._child is not None
        self._child.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on where it was."""
        assert self._child is not None
        self._child.signal(signal.SIGCONT)

    def _answers(self) -> bool:
        if self._child is None or self._child.code is not None:
            raise CampaignError(f"mosquitto ended: {self._log.read_text()[-300:]}")
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=1.0):
            return True
        return False
