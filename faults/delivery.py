"""Faults of delivery: nothing that was told is lost, nothing comes as two.

In: a number of faults and a seed. Out: what became of each. A run is one street, heard by the agent faster than real
time in a process of its own, while its broker, its network, its disk or the agent itself is broken at random instants.
Two truths are held against what a subscriber got:

- *World runs* break all but the agent. Truth is what an uninterrupted `urbansound replay` says about the same
  recording: label, duration and likelihoods of each event.
- *Kill runs* kill the agent as well. Sound that nobody heard is a gap, and makes no event; so truth is the agent's
  journal, in which each message is noted when its append has returned. Each event that was begun must have its end.
  Levels are promised over all faults but a kill.
"""

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.children import HOST, Broker, CampaignError, Child, MissingError, program, wait_until
from faults.network import Gate, Namespace
from faults.street import make_street, write_config
from faults.witness import Witness

SPEED = 16.0  # times real time
STREET_S = 160.0
TAIL_S = 4.0  # at the end of the street, events may be cut off by it
FAULTS_PER_RUN = 5
HOLD_S = (0.1, 1.2)  # how long a fault lasts
BETWEEN_S = (0.1, 0.9)
RECOVERY_LIMIT_S = 30.0
DISK_BYTES = 16_000_000  # SQLite's log alone needs 4 MB
UP = "capture.opened"  # what the agent says when it is up
ROW = ("label", "duration_s", "likelihood_peak", "likelihood_mean")

WORLD = ("broker killed", "broker frozen", "broker frozen, then killed", "network cut", "disk full")
KILL = ("agent killed", "agent killed", "agent killed while cut off", "broker killed", "broker frozen", "network cut")


@dataclass
class Fault:
    """What became of one fault.

    Attributes:
        kind: what was broken.
        at_s: when, since the run began.
        noticed_s: how soon the agent said so; None where it was too short to be noticed, or nobody was left to say it.
        recovered_s: how soon after its end the next message came.
    """

    kind: str
    at_s: float
    noticed_s: float | None = None
    recovered_s: float | None = None


@dataclass
class Outcome:
    """What became of one run.

    Attributes:
        faults: in order.
        told: messages in the journal.
        lost: messages or events that the truth has and the subscriber has not.
        duplicated: events that came as two, or that have two starts or two ends.
        repeated: messages that came twice with the same `seq`, as QoS 1 may.
        problems: in words.
    """

    faults: list[Fault] = field(default_factory=list)
    told: int = 0
    lost: int = 0
    duplicated: int = 0
    repeated: int = 0
    problems: list[str] = field(default_factory=list)


class Run:
    """One street with faults.

    Args:
        folder: for all its files.
        street: the recording.
        truth: the rows of an uninterrupted replay.
        number: tells its network namespace from others.
    """

    def __init__(self, folder: Path, street: Path, truth: Sequence[tuple[Any, ...]], number: int) -> None:
        self.outcome = Outcome()
        self._folder, self._street, self._truth = folder, street, truth
        self._stack = contextlib.ExitStack()
        self._namespace: Namespace | None = None
        with contextlib.suppress(MissingError):
            self._namespace = Namespace(number)
            self._stack.callback(self._namespace.close)
        self._broker = Broker(folder / "broker")
        self._gate = Gate(HOST if self._namespace is None else self._namespace.host, self._broker.port)
        self._stack.callback(self._gate.close)
        self._disk: Path | None = folder / "disk"
        self._disk.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", self._disk], capture_output=True, check=False
        )
        if mounted.returncode == 0:
            self._stack.callback(_unmount, self._disk)
        else:
            self._disk = None
        self._config = write_config(
            folder,
            port=self._gate.port,
            host=HOST if self._namespace is None else self._namespace.host,
            spool=self._disk,
        )
        self._journal = folder / "journal.jsonl"
        self._log = folder / "node.log"
        self._node: Child | None = None
        self._ups_before = 0  # how often it had been up when it was last started

    def go(self, kinds: Sequence[str], chance: random.Random) -> Outcome:
        """Break these, one after the other, at random instants; then hold what came against the truth.

        Raises:
            CampaignError: the run could not be finished.
        """
        try:
            self._broker.start()
            self._stack.callback(self._broker.kill)
            self._witness = Witness(self._broker.port, "witness")
            self._stack.callback(self._witness.close)
            self._began_s = time.monotonic()
            self._start_node()
            wait_until(lambda: self._witness.told, "the first event")
            for kind in kinds:
                time.sleep(chance.uniform(*BETWEEN_S))
                if self._over():
                    break  # nothing more is told: no fault could do harm
                self._break(kind, chance)
            self._finish()
            self._judge()
        finally:
            if self._node is not None:
                self._node.kill()
            self._stack.close()
        return self.outcome

    def can(self, kind: str) -> bool:
        """Whether this can be broken on this machine."""
        return kind != "disk full" or self._disk is not None

    def _start_node(self, *, from_s: float = 0.0) -> None:
        prefix = [] if self._namespace is None else self._namespace.prefix
        command = [*prefix, sys.executable, "-m", "faults.node", "--config", str(self._config)]
        command += ["--sound", str(self._street), "--speed", str(SPEED), "--from", f"{from_s:.1f}"]
        self._ups_before = self._log.read_text(errors="replace").count(UP) if self._log.is_file() else 0
        self._node = Child([*command, "--journal", str(self._journal)], self._log)

    def _break(self, kind: str, chance: random.Random) -> None:
        fault = Fault(kind, time.monotonic() - self._began_s)
        self.outcome.faults.append(fault)
        hold_s = chance.uniform(*HOLD_S)
        began_s = time.monotonic()
        with self._broken(kind) as sign:
            n_before = self._node.said(sign) if self._node is not None and sign else 0
            while time.monotonic() - began_s < hold_s:
                time.sleep(0.02)
                if fault.noticed_s is None and sign and self._node is not None and self._node.said(sign) > n_before:
                    fault.noticed_s = time.monotonic() - began_s
            n_came, n_told = len(self._witness.told), len(self._told())
        mended_s = time.monotonic()
        if self._over():
            return
        with contextlib.suppress(CampaignError):
            wait_until(
                lambda: len(self._witness.told) > n_came or (self._over() and n_told == len(self._told())),
                f"a message after {kind}",
                RECOVERY_LIMIT_S,
            )
            fault.recovered_s = time.monotonic() - mended_s

    @contextlib.contextmanager
    def _broken(self, kind: str) -> Iterator[str]:
        """Break it; gives what the agent's log says when it notices; mend it."""
        breaks: dict[str, Callable[[], contextlib.AbstractContextManager[str]]] = {
            "agent killed": self._agent_killed,
            "agent killed while cut off": self._agent_killed_while_cut_off,
            "broker killed": self._broker_killed,
            "broker frozen": self._broker_frozen,
            "broker frozen, then killed": self._broker_frozen_then_killed,
            "network cut": self._network_cut,
            "disk full": self._disk_full,
        }
        with breaks[kind]() as sign:
            yield sign

    @contextlib.contextmanager
    def _agent_killed(self) -> Iterator[str]:
        assert self._node is not None
        self._node.kill()
        self._node = None
        yield ""
        # The street went on meanwhile.
        self._start_node(from_s=(time.monotonic() - self._began_s) * SPEED)

    @contextlib.contextmanager
    def _agent_killed_while_cut_off(self) -> Iterator[str]:
        """What waits for the network waits on the disk."""
        with self._network_cut() as sign:
            yield sign
            with self._agent_killed():
                pass

    @contextlib.contextmanager
    def _broker_frozen_then_killed(self) -> Iterator[str]:
        """What was sent meanwhile, it has never read."""
        self._broker.freeze()
        yield "mqtt.away"
        with self._broker_killed():
            pass

    @contextlib.contextmanager
    def _broker_killed(self) -> Iterator[str]:
        self._broker.kill()
        self._gate.set("shut")
        yield "mqtt.away"
        self._broker.start()
        self._witness.wait_ready()
        self._gate.set("open")

    @contextlib.contextmanager
    def _broker_frozen(self) -> Iterator[str]:
        self._broker.freeze()
        yield "mqtt.away"
        self._broker.thaw()

    @contextlib.contextmanager
    def _network_cut(self) -> Iterator[str]:
        if self._namespace is None:
            self._gate.set("silent")
            yield "mqtt.away"
            self._gate.set("open")
        else:
            self._namespace.cut()
            yield "mqtt.away"
            self._namespace.join()

    @contextlib.contextmanager
    def _disk_full(self) -> Iterator[str]:
        assert self._disk is not None
        ballast = self._disk / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            for size in (65_536, 4096, 512, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"\0" * size)
        yield "spool."
        ballast.unlink()

    def _over(self) -> bool:
        return (time.monotonic() - self._began_s) * SPEED > STREET_S

    def _told(self) -> list[dict[str, Any]]:
        if not self._journal.is_file():
            return []
        return [json.loads(line) for line in self._journal.read_text(encoding="utf-8").splitlines() if line[-1:] == "}"]

    def _finish(self) -> None:
        """Until all the street is heard and all that was told has come; then the node is asked to stop."""
        wait_until(self._over, "the end of the street", STREET_S)
        self._wait_for_quiet()
        assert self._node is not None
        if self._node.code is not None:
            self.outcome.problems.append(f"the agent ended by itself with {self._node.code}")
            self._start_node(from_s=STREET_S)
        # A signal that comes before the agent can take it is a kill, after which nobody would end what is open.
        node = self._node
        wait_until(lambda: node.said(UP) > self._ups_before or node.code is not None, "the agent to be up")
        code = self._node.stop()
        if code != 128 + signal.SIGTERM:
            self.outcome.problems.append(f"the agent ended with {code} after SIGTERM")
        with contextlib.suppress(CampaignError):
            wait_until(lambda: not self._missing(), "all messages", 2.0)

    def _wait_for_quiet(self) -> None:
        """Until nothing is told any more and all that was told is there, as long as that may take."""
        state: tuple[int, int] = (-1, -1)
        since_s = began_s = time.monotonic()
        while time.monotonic() - began_s < RECOVERY_LIMIT_S:
            now = (len(self._told()), len(self._witness.told))
            if now != state:
                state, since_s = now, time.monotonic()
            if time.monotonic() - since_s > 1.0 and not self._missing():
                return
            time.sleep(0.05)

    def _missing(self) -> list[dict[str, Any]]:
        there = {_key(event) for event in list(self._witness.told)}
        promised = {"event", "update", "gap"} if self._killed else {"event", "update", "gap", "level"}
        return [told for told in self._told() if told["kind"] in promised and _key(told) not in there]

    @property
    def _killed(self) -> bool:
        return any(fault.kind.startswith("agent killed") for fault in self.outcome.faults)

    def _judge(self) -> None:
        outcome, came = self.outcome, list(self._witness.told)
        outcome.told = len(self._told())
        unique = list({_key(event): event for event in reversed(came)}.values())[::-1]
        outcome.repeated = len(came) - len(unique)
        missing = self._missing()
        outcome.lost += len(missing)
        outcome.problems += [f"told and never came: {told}" for told in missing[:3]]
        by_event: dict[str, list[str]] = {}
        for event in sorted(filter(_is_event, unique), key=lambda event: int(event["seq"])):
            by_event.setdefault(event["event_id"], []).append(event["event_type"])
        for event_id, types in by_event.items():
            n_starts, n_ends = types.count("start"), types.count("end")
            outcome.lost += (n_starts == 0) + (n_ends == 0)
            outcome.duplicated += (n_starts > 1) + (n_ends > 1)
            if (n_starts, n_ends) != (1, 1) or (types[0], types[-1]) != ("start", "end"):
                outcome.problems.append(f"event {event_id} came as {types}")
        seqs = [event["seq"] for event in unique]
        outcome.duplicated += len(seqs) - len(set(seqs))  # one number for two messages: a reader would drop one
        if not self._killed:
            ends = [tuple(event[name] for name in ROW) for event in unique if event.get("event_type") == "end"]
            heard, truth = Counter(ends[: len(self._truth)]), Counter(self._truth)
            outcome.lost += (truth - heard).total()
            outcome.duplicated += (heard - truth).total()
            outcome.problems += [f"in the replay and never came: {row}" for row in list(truth - heard)[:3]]
            outcome.problems += [f"came and not in the replay: {row}" for row in list(heard - truth)[:3]]


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", folder], check=False)


def _key(message: dict[str, Any]) -> tuple[int, str, str]:
    return message["seq"], message.get("event_id") or "", message.get("event_type") or ""


def _is_event(message: dict[str, Any]) -> bool:
    return "event_id" in message


def replayed(street: Path, config: Path) -> list[tuple[Any, ...]]:
    """What an uninterrupted replay says, up to a little before the end of the street."""
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli", "replay", "--jobs", "1", "--config", config, street],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    whole = [row for row in rows if row["offset_s"] < STREET_S - TAIL_S]
    return [tuple(row[name] for name in ROW) for row in whole]


def break_delivery(n_faults: int, seed: int, folder: Path, say: Callable[[str], None]) -> list[Outcome]:
    """As many faults as asked for, in as many runs as that takes.

    Args:
        n_faults: in all.
        seed: the same one breaks the same at about the same instants.
        folder: for all files; those of runs with a problem stay.
        say: told about each run.
    """
    program("mosquitto")
    street = folder / "street.wav"
    make_street(street, STREET_S, seed)
    truth = replayed(street, write_config(folder, port=1))
    chance = random.Random(seed)
    outcomes: list[Outcome] = []
    left = n_faults
    number = 0
    while left > 0:
        here = folder / f"run{number}"
        here.mkdir()
        run = Run(here, street, truth, number)
        possible = [kind for kind in (WORLD if number % 2 == 0 else KILL) if run.can(kind)]
        kinds = [chance.choice(possible) for _ in range(min(left, FAULTS_PER_RUN))]
        outcome = run.go(kinds, chance)
        outcomes.append(outcome)
        say(
            f"run {number}: {', '.join(fault.kind for fault in outcome.faults)}: told {outcome.told}, "
            f"lost {outcome.lost}, duplicated {outcome.duplicated}, repeated {outcome.repeated}"
        )
        for problem in outcome.problems:
            say(f"  {problem}")
        left -= len(outcome.faults)
        number += 1
    return outcomes
