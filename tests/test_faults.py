"""Promises of `faults`: the campaign finds what is lost, duplicated or kept secret, and a short one finds nothing."""

import json
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from agent.values import FloatArray
from faults import powercut
from faults.__main__ import deaf_rows, delivery_rows, power_rows, promises_kept
from faults.children import HOST, Broker, Child
from faults.deaf import NEVER, Deafness, Ward
from faults.delivery import Fault, Outcome, break_delivery
from faults.network import Gate
from faults.node import Progress, Tape
from faults.powercut import Call, Cut, Disk, cut, cut_power, record
from faults.soak import Hour, growth
from faults.street import make_street
from tests.broker import DEADLINE_S, wait_until

RATE_HZ = 8000

needs_mosquitto = pytest.mark.skipif(
    shutil.which("mosquitto") is None, reason="mosquitto is not installed (apt-get install mosquitto)"
)
needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None, reason="strace is not installed (apt-get install strace)"
)


# Power cuts


def test_what_was_synced_is_kept_and_the_rest_is_left_to_chance() -> None:
    """Before its sync a write may be on the disk, or not, or torn; afterwards it is there."""
    disk = Disk()
    disk.take(Call("write", "log", 0, b"a" * 1024))
    unsynced = {bytes(disk.after_a_cut(random.Random(seed))["log"]) for seed in range(60)}
    disk.take(Call("sync", "log"))
    disk.take(Call("write", "log", 1024, b"b" * 1024))
    half = {bytes(disk.after_a_cut(random.Random(seed))["log"]) for seed in range(60)}

    assert {b"", b"a" * 512, b"a" * 1024} <= unsynced
    assert {content[:1024] for content in half} == {b"a" * 1024}
    assert {b"a" * 1024, b"a" * 1024 + b"b" * 1024} <= half


def test_a_write_beyond_the_end_and_a_truncation_are_done_as_a_disk_does() -> None:
    """Holes are zeros, and what is cut off is gone."""
    disk = Disk()
    for call in (Call("write", "file", 4, b"xy"), Call("truncate", "file", 5), Call("sync", "file")):
        disk.take(call)

    assert disk.after_a_cut(random.Random(1)) == {"file": b"\0\0\0\0x"}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[Call]:
    """All that a spool in use does to its files."""
    return record(tmp_path_factory.mktemp("recorded"), seed=5)


@needs_strace
def test_power_cuts_take_nothing_back_that_was_promised(tmp_path: Path) -> None:
    """Forty cuts at random instants: what was durable is there, what is open is known, and no number comes twice."""
    problems: list[str] = []

    cuts = list(cut_power(40, 3, tmp_path, problems.append))

    assert problems == []
    assert (len(cuts), sum(each.lost + each.duplicated for each in cuts)) == (40, 0)


@needs_strace
def test_a_spool_that_does_not_sync_is_found_out(recorded: list[Call], tmp_path: Path) -> None:
    """Without its syncs, the same record loses messages: the simulation would notice."""
    unsynced = [call for call in recorded if call.kind != "sync"]
    chance = random.Random(3)

    cuts = [cut(unsynced, chance.randrange(1, len(unsynced)), tmp_path / f"{number}", chance) for number in range(20)]

    assert sum(each.lost for each in cuts) > 20


@needs_strace
def test_a_number_that_would_come_twice_is_found_out(
    recorded: list[Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the broker told a number that the disk never had, the cut would say so."""
    told = json.dumps({"what": "sent", "seq": 1 << 39}).encode()

    outcome = cut([*recorded, Call("mark", "marks", data=told)], len(recorded) + 1, tmp_path / "cut", random.Random(1))

    assert outcome.duplicated == 1
    assert powercut.TOPIC.endswith("/event")


# Delivery


@needs_mosquitto
@pytest.mark.slow
def test_a_short_campaign_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    """Two runs, in which broker, network, disk and the agent itself are broken at random instants."""
    said: list[str] = []

    outcomes = break_delivery(6, 1, tmp_path, said.append)

    assert sum(len(outcome.faults) for outcome in outcomes) == 6
    assert [outcome.problems for outcome in outcomes] == [[], []], said
    assert promises_kept(outcomes, [], [])
    assert all(outcome.told > 50 for outcome in outcomes)


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that says back what it hears; gives its port."""
    script = (
        "import socket, sys, threading\n"
        "listener = socket.create_server(('127.0.0.1', 0)); print(listener.getsockname()[1], flush=True)\n"
        "def serve(one):\n"
        "    while data := one.recv(100): one.sendall(data)\n"
        "while True: threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()\n"
    )
    server = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    yield int(server.stdout.readline())
    server.kill()
    server.wait()
    server.stdout.close()


def test_a_gate_forwards_holds_back_and_shuts(echo: int) -> None:
    """Open: all goes through. Silent: nothing does, and comes when it is open again. Shut: connections end."""
    with closing(Gate(HOST, echo)) as gate, socket.create_connection((HOST, gate.port), timeout=DEADLINE_S) as one:
        one.sendall(b"open")
        assert one.recv(100) == b"open"

        gate.set("silent")
        one.sendall(b"silent")
        one.settimeout(0.3)
        with pytest.raises(TimeoutError):
            one.recv(100)
        gate.set("open")
        one.settimeout(DEADLINE_S)
        assert one.recv(100) == b"silent"

        gate.set("shut")
        assert one.recv(100) == b""


@needs_mosquitto
def test_a_broker_comes_back_on_its_port(tmp_path: Path) -> None:
    """Killed and started again, it is where it was."""
    broker = Broker(tmp_path / "broker")
    broker.start()
    port = broker.port
    broker.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port), timeout=1.0)
    broker.start()
    socket.create_connection((HOST, port), timeout=1.0).close()
    broker.kill()


def test_a_child_is_ended_and_its_output_kept(tmp_path: Path) -> None:
    """What it said is in its log, and its exit code is known."""
    child = Child([sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)"], tmp_path / "log")
    wait_until(lambda: child.said("here"), "the child to speak")

    assert child.code is None
    assert child.stop() == -15
    child.kill()


# The microphone


def tape_of(samples: FloatArray, *, from_s: float = 0.0, forever: bool = False) -> tuple[Tape, Progress]:
    progress = Progress(None)
    progress.heard_until = 1 << 40  # the analysis is never behind
    return Tape(samples, RATE_HZ, 1e6, from_s, progress, forever=forever), progress


def test_a_tape_plays_its_recording_and_then_faint_noise() -> None:
    """Sample by sample; afterwards it is not silent, which would be a fault of its own."""
    samples = np.linspace(-1.0, 1.0, 1000).astype(np.float32)
    tape, _ = tape_of(samples, from_s=0.05)
    tape.start()

    played = np.concatenate([tape.read(250)[0][:, 0] for _ in range(6)])

    np.testing.assert_array_equal(played[:600], samples[400:])
    assert 0.0 < np.abs(played[600:]).max() < 0.01


def test_a_tape_can_go_round_for_ever() -> None:
    """At its end it begins again, also in the middle of a block."""
    samples = np.linspace(-1.0, 1.0, 1000).astype(np.float32)
    tape, _ = tape_of(samples, forever=True)
    tape.start()

    played = np.concatenate([tape.read(700)[0][:, 0] for _ in range(5)])

    np.testing.assert_array_equal(played, np.tile(samples, 4)[:3500])


# Deafness


@needs_mosquitto
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pulseaudio") is None, reason="pulseaudio is not installed")
@pytest.mark.parametrize(("kind", "said"), [("all zero", "silent zero"), ("device gone", "lost device")])
def test_a_deaf_node_says_so_and_hears_again(tmp_path: Path, kind: str, said: str) -> None:
    """A subscriber is told within ten seconds, and again when sound comes back; nobody touches the node."""
    street = make_street(tmp_path / "street.wav", 30.0, 1)

    deafness = Ward(tmp_path / "ward", street).suffer(kind)

    assert deafness.problems == []
    assert deafness.noticed_s <= 10.0
    assert deafness.said == said
    assert deafness.recovered_s < NEVER


# What is made of it


def test_the_table_says_what_became_of_each_fault() -> None:
    """A row for each kind, with how often, how soon, and what was lost with it."""
    outcomes = [
        Outcome([Fault("broker killed", 1.0, 0.2, 1.5), Fault("network cut", 2.0, None, 0.5)], told=9, lost=2),
        Outcome([Fault("broker killed", 1.0, 0.4, 2.5)], told=5),
    ]
    deafness = [Deafness("all zero", 5.5, "silent zero", 2.0), Deafness("all zero", 6.5, "silent zero", 4.0)]

    assert list(delivery_rows(outcomes)) == [
        "| broker killed | 2 | 0.3, at most 0.4 | 2.0, at most 2.5 | 2 | 0 |",
        "| network cut | 1 | – | 0.5 | 2 | 0 |",
    ]
    assert list(power_rows([Cut(3), Cut(7, duplicated=1)])) == ["| power cut | 2 | – | – | 0 | 1 |"]
    assert list(deaf_rows(deafness)) == [
        "| all zero: said as silent zero | 2 | 6.0, at most 6.5 | 3.0, at most 4.0 | – | – |"
    ]


@pytest.mark.parametrize(
    ("outcome", "cut", "deafness"),
    [
        (Outcome(lost=1), Cut(1), Deafness("all zero", 1.0, "silent zero", 1.0)),
        (Outcome(duplicated=1), Cut(1), Deafness("all zero", 1.0, "silent zero", 1.0)),
        (Outcome(problems=["it ended"]), Cut(1), Deafness("all zero", 1.0, "silent zero", 1.0)),
        (Outcome(), Cut(1, lost=1), Deafness("all zero", 1.0, "silent zero", 1.0)),
        (Outcome(), Cut(1), Deafness("all zero", 10.1, "silent zero", 1.0)),
        (Outcome(), Cut(1), Deafness("all zero", 1.0, "silent zero", NEVER)),
        (Outcome(), Cut(1), Deafness("all zero", 1.0, "silent zero", 1.0, ["it ended"])),
    ],
)
def test_one_broken_promise_is_enough(outcome: Outcome, cut: Cut, deafness: Deafness) -> None:
    """Whatever is lost, comes as two, is said too late or does not end fails the campaign."""
    kept = Outcome(), Cut(1), Deafness("all zero", 1.0, "silent zero", 1.0)
    assert promises_kept([kept[0]], [kept[1]], [kept[2]])

    assert not promises_kept([kept[0], outcome], [kept[1], cut], [kept[2], deafness])


def test_growth_is_counted_from_the_first_hour() -> None:
    """What the agent needs until it has settled is not growth; the worst hour after that counts."""
    hours = [Hour(n, memory, 50, 15, 0, 0, 1.0) for n, memory in enumerate((100, 101, 104, 102), 1)]

    assert growth(hours) == pytest.approx(0.04)
