"""`make demo`: a street goes through the whole agent and a real broker, and what is heard is printed and drawn.

Out: the events as the broker delivers them, on standard output, and a picture. A mosquitto of our own, `urbansound
watch` and `urbansound replay --publish` run as a person would run them. Exit codes: 0 the chain works, however many
sounds were recognised · 1 it does not · 69 something to install is missing · 130 interrupted.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

import soundfile

from agent.errors import AgentError, BrokerError
from demo.report import Heard, report
from demo.scene import SAMPLE_RATE_HZ, STREET, STREET_DURATION_S, Sounding, render

PICTURE = Path("build") / "demo.png"
HOST = "127.0.0.1"
SPEED = 8.0
START_LIMIT_S = 20.0
REPLAY_LIMIT_S = 300.0  # a small board may not keep up with eight times real time
DELIVERY_LIMIT_S = 10.0
END_LIMIT_S = 5.0
SBIN = "/usr/sbin:/usr/local/sbin"  # where Debian puts mosquitto; not in a user's PATH


class MissingError(AgentError):
    """Something has to be installed first."""

    exit_code = os.EX_UNAVAILABLE


def main() -> int:
    """Run the demo; returns the exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        demonstrate(PICTURE, mosquitto=find_mosquitto(os.environ.get("PATH", "")))
    except AgentError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _terminated(number: int, _frame: FrameType | None) -> NoReturn:
    """Leave as after Ctrl-C, so that the children are ended."""
    raise SystemExit(128 + number)


def find_mosquitto(search_path: str) -> Path | None:
    """The broker's program, if it is installed."""
    found = shutil.which("mosquitto", path=f"{search_path}:{SBIN}")
    return Path(found) if found else None


def demonstrate(
    picture: Path,
    *,
    mosquitto: Path | None,
    soundings: tuple[Sounding, ...] = STREET,
    duration_s: float = STREET_DURATION_S,
    speed: float = SPEED,
) -> None:
    """Make the street, replay it over a broker, print what comes, draw it.

    Args:
        picture: the PNG to write.
        mosquitto: the broker's program; None where there is none.
        soundings: what sounds in the street.
        duration_s: length of the street.
        speed: times real time.

    Raises:
        AgentError: a link of the chain failed; the message says which.
    """
    if mosquitto is None:
        raise MissingError("mosquitto is not installed; sudo apt-get install mosquitto")
    draw = _drawer()
    print(f"A street of {duration_s:g} s with {len(soundings)} sounds, made by formulas, at {speed:g} times real time")
    street = render(soundings, duration_s)
    with tempfile.TemporaryDirectory(prefix="urbansound-demo-") as name:
        folder = Path(name)
        recording = folder / "street.wav"
        soundfile.write(recording, street, SAMPLE_RATE_HZ, subtype="PCM_16")
        with running_mosquitto(mosquitto, folder) as port:
            environment = _environment(port, folder)
            with watching(environment) as watcher:
                events = replayed(recording, environment, folder, speed)
                watcher.wait_for(len(events))
    problem = chain_problem(n_finished=len(events), n_delivered=watcher.n_ended)
    if problem:
        raise AgentError(problem)
    print()
    for line in report(soundings, events):
        print(line)
    try:
        draw(picture, street, SAMPLE_RATE_HZ, soundings, events)
    except OSError as error:
        raise AgentError(f"picture {picture.resolve()}: cannot be written ({error.strerror})") from error
    print(f"\nPicture: {picture.resolve()}")


def _drawer() -> Callable[..., None]:
    """The picture's painter; said before anything is started if it is not there."""
    try:
        from demo.picture import draw
    except ModuleNotFoundError as error:
        raise MissingError(f"{error.name} is not installed; pip install --editable '.[plot]'") from error
    return draw


def chain_problem(*, n_finished: int, n_delivered: int) -> str | None:
    """What is wrong between the agent and the subscriber; None if all that was found was delivered.

    Args:
        n_finished: events that the agent found.
        n_delivered: ends of events that the subscriber got from the broker.
    """
    if n_finished == 0:
        return "the agent found no event in the street, expected at least one"
    if n_delivered != n_finished:
        return f"{n_delivered} events came from the broker, expected the {n_finished} that the agent found"
    return None


# The children: each is ended by its own process, and everything has a time limit


@contextmanager
def child(*command: str | Path, **how: Any) -> Iterator[subprocess.Popen[str]]:  # noqa: ANN401  what Popen takes
    """A child process that does not outlive the block."""
    process: subprocess.Popen[str] | None = None
    try:
        with _uninterrupted():
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, text=True, **how)
        yield process
    finally:
        if process is not None:
            process.terminate()
            try:
                process.wait(END_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold signals back for a moment: a child that is half started when Python leaves would be left behind."""
    held: list[int] = []
    before = {
        number: signal.signal(number, lambda received, _frame: held.append(received))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for received in held:
        signal.raise_signal(received)


@contextmanager
def running_mosquitto(program: Path, folder: Path) -> Iterator[int]:
    """A broker on a free port of the loopback interface, for nobody else.

    Returns:
        the port, once it is open.

    Raises:
        BrokerError: it does not start.
    """
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    configuration, log = folder / "mosquitto.conf", folder / "mosquitto.log"
    configuration.write_text(f"listener {port} {HOST}\nallow_anonymous true\npersistence false\nlog_dest stderr\n")
    with log.open("w") as output, child(program, "-c", configuration, stdout=output, stderr=output) as process:
        until = time.monotonic() + START_LIMIT_S
        while not _answers(port):
            if process.poll() is not None:
                raise BrokerError(f"{program} ended with {process.returncode}: {_last_line(log)}")
            if time.monotonic() > until:
                raise BrokerError(f"{program} did not open port {port} within {START_LIMIT_S:g} s: {_last_line(log)}")
            time.sleep(0.02)
        yield port


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1.0):
        return True
    return False


def _environment(port: int, folder: Path) -> Mapping[str, str]:
    """Ours without a configuration of the agent, and with one for this broker."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("URBANSOUND_")}
    return inherited | {
        "URBANSOUND_NODE__ID": "demo",
        "URBANSOUND_MQTT__HOST": HOST,
        "URBANSOUND_MQTT__PORT": str(port),
        "URBANSOUND_SPOOL__PATH": str(folder / "spool.sqlite"),
        "PYTHONUNBUFFERED": "1",
    }


class Watcher:
    """Passes on what `urbansound watch` says, line by line as it comes, and counts the ends of events.

    Args:
        output: of the child; read on a thread of its own until it ends.
    """

    def __init__(self, output: IO[str]) -> None:
        self.n_ended = 0
        self._output = output
        self._changed = threading.Condition()
        self._subscribed = False
        self._over = False
        self._thread = threading.Thread(target=self._pass_on, name="watcher", daemon=True)
        self._thread.start()

    def wait_until_subscribed(self) -> bool:
        """Whether it is subscribed, after at most the time that a start may take."""
        with self._changed:
            self._changed.wait_for(lambda: self._subscribed or self._over, START_LIMIT_S)
            return self._subscribed

    def wait_for(self, n_ended: int) -> None:
        """Wait until so many events have ended, or for as long as a delivery may take."""
        with self._changed:
            self._changed.wait_for(lambda: self.n_ended >= n_ended or self._over, DELIVERY_LIMIT_S)

    def _pass_on(self) -> None:
        with self._output as lines:
            for line in lines:
                print(line, end="", flush=True)
                with self._changed:
                    self._subscribed |= line.startswith("watching ")
                    self.n_ended += line.split()[1:2] == ["end"]
                    self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()


@contextmanager
def watching(environment: Mapping[str, str]) -> Iterator[Watcher]:
    """`urbansound watch`, subscribed.

    Raises:
        BrokerError: it does not subscribe.
    """
    with child(
        *_urbansound("watch"), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=1
    ) as process:
        assert process.stdout is not None
        watcher = Watcher(process.stdout)
        if not watcher.wait_until_subscribed():
            raise BrokerError(f"urbansound watch did not subscribe within {START_LIMIT_S:g} s")
        yield watcher


def replayed(recording: Path, environment: Mapping[str, str], folder: Path, speed: float) -> list[Heard]:
    """Replay a recording and publish its events.

    Returns:
        the finished events, as `replay` itself tells them.

    Raises:
        AgentError: it fails, or takes too long.
    """
    command = _urbansound("replay", "--publish", "--start", "now", "--speed", f"{speed:g}", str(recording))
    rows, log = folder / "events.jsonl", folder / "replay.log"
    with (
        rows.open("w") as output,
        log.open("w") as errors,
        child(*command, env=environment, stdout=output, stderr=errors) as process,
    ):
        try:
            code = process.wait(REPLAY_LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise AgentError(f"urbansound replay did not end within {REPLAY_LIMIT_S:g} s: {_last_line(log)}") from error
    if code != 0:
        raise AgentError(f"urbansound replay ended with {code}: {_last_line(log)}")
    events = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    return [Heard(event["label"], event["onset_s"], event["offset_s"], event["likelihood_peak"]) for event in events]


def _urbansound(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "agent.cli", *arguments)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")


if __name__ == "__main__":
    sys.exit(main())
