"""`urbansound` as a child process, as a pytest plugin: real arguments, files and signals, and no wait without end."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import pytest

from agent.cli import main
from tests.conftest import REPOSITORY

LIMIT_S = 60.0

# Of the session that runs the tests, a child must see none.
_OURS = ("URBANSOUND_", "NOTIFY_SOCKET", "WATCHDOG_", "JOURNAL_STREAM", "CREDENTIALS_DIRECTORY", "COLUMNS")


class Command:
    """One `urbansound`, whose output is read as it comes.

    Args:
        arguments: after `urbansound`.
        environment: in place of that of the tests.
        more: variables on top of it.
        stdin: what it reads; nothing if None. With `subprocess.PIPE`, `process.stdin` can be written.
        stdout: where its results go, in place of `lines`.

    Attributes:
        process: the child.
        lines: standard output so far.
        log: standard error so far.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        environment: Mapping[str, str] = os.environ,
        more: Mapping[str, str] | None = None,
        stdin: int | IO[bytes] | None = None,
        stdout: int | IO[bytes] | None = None,
    ) -> None:
        inherited = {name: value for name, value in environment.items() if not name.startswith(_OURS)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agent.cli", *map(str, arguments)],
            cwd=REPOSITORY,
            env=inherited | (dict(more) if more else {}),
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.PIPE,
        )
        self.lines: list[str] = []
        self.log: list[str] = []
        self._readers = [
            threading.Thread(target=_read, args=(pipe, into), daemon=True)
            for pipe, into in ((self.process.stdout, self.lines), (self.process.stderr, self.log))
            if pipe is not None
        ]
        for reader in self._readers:
            reader.start()

    def wait_for_log(self, text: str, count: int = 1) -> None:
        """Until so many lines of standard error hold a text."""
        until = time.monotonic() + LIMIT_S
        while self.count_log(text) < count:
            ended = self.process.poll() is not None and not any(reader.is_alive() for reader in self._readers)
            if ended or time.monotonic() > until:
                pytest.fail(f"{text!r} was not said {count} times (exit code {self.process.poll()}):\n{self.stderr}")
            time.sleep(0.005)  # between two looks

    def count_log(self, text: str) -> int:
        """How many lines of standard error hold a text."""
        return sum(text in line for line in self.log)

    @property
    def stderr(self) -> str:
        """Standard error so far."""
        return "".join(self.log)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Until it has ended and all its output is read; give the exit code."""
        try:
            code = self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail(f"it did not end within {LIMIT_S:g} s:\n{self.stderr}")
        for reader in self._readers:
            reader.join(LIMIT_S)
        return code

    def end(self) -> None:
        """If it still runs, not any more."""
        self.process.kill()
        self.process.wait(LIMIT_S)
        for reader in self._readers:
            reader.join(LIMIT_S)
        if self.process.stdin is not None:
            self.process.stdin.close()


def _read(pipe: IO[bytes], into: list[str]) -> None:
    with pipe:
        for line in pipe:
            into.append(line.decode("utf-8", "surrogateescape"))


class CommandFactory(Protocol):
    def __call__(
        self,
        *arguments: str | Path,
        environment: Mapping[str, str] = os.environ,
        more: Mapping[str, str] | None = None,
        stdin: int | IO[bytes] | None = None,
        stdout: int | IO[bytes] | None = None,
    ) -> Command: ...


@pytest.fixture
def urbansound() -> Iterator[CommandFactory]:
    """Starts the command; ends what still runs."""
    commands: list[Command] = []

    def start(
        *arguments: str | Path,
        environment: Mapping[str, str] = os.environ,
        more: Mapping[str, str] | None = None,
        stdin: int | IO[bytes] | None = None,
        stdout: int | IO[bytes] | None = None,
    ) -> Command:
        commands.append(Command(arguments, environment=environment, more=more, stdin=stdin, stdout=stdout))
        return commands[-1]

    yield start
    for command in commands:
        command.end()


@dataclass(frozen=True)
class Said:
    """What a command said.

    Attributes:
        code: the exit code.
        out: standard output.
        err: standard error.
    """

    code: int
    out: str
    err: str


class Caller(Protocol):
    def __call__(self, *arguments: str | Path) -> Said: ...


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Caller:
    """Calls the command inside the tests' own process, for what needs no process of its own."""
    for name in os.environ:
        if name.startswith(_OURS):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # as the command sets it, but taken back

    def call_it(*arguments: str | Path) -> Said:
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        root.handlers.clear()
        capsys.readouterr()
        try:
            code = main([*map(str, arguments)])
        except SystemExit as error:  # argparse
            code = int(error.code or 0)
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
        return Said(code, *capsys.readouterr())

    return call_it
