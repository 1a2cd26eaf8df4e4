"""The whole agent, live: `urbansound run` with a sound card, a broker and a stand-in for systemd, all of them real.

In: how long to listen. Out: how soon it was ready, and what it took of a core and of memory. The sound card and the
broker are those of the fault campaign; their own work is not counted.
"""

import contextlib
import os
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.bench import street
from faults.children import HOST, Broker, CampaignError, Child
from faults.soundcard import DEVICE, Loudspeaker, SoundCard
from faults.witness import Witness

RATE_HZ = 48_000
STREET_S = 60.0
READY_LIMIT_S = 30.0
WARM_S = 10.0


@dataclass(frozen=True, slots=True)
class Listened:
    """What it took.

    Attributes:
        ready_s: from the start of the process to READY, a second of sound included.
        ready_cpu_s: processor time until then.
        seconds: for how long the rest was measured.
        cpu_share: of one core.
        resident_mib: at the end.
        health: the node's last `health` message.
    """

    ready_s: float
    ready_cpu_s: float
    seconds: float
    cpu_share: float
    resident_mib: float
    health: dict[str, object]


def listen(seconds: float) -> Listened:
    """Run the agent with the default model and the default rules, and look at it from outside.

    Raises:
        AgentError: a program is missing, or the agent does not get ready.
    """
    with tempfile.TemporaryDirectory(prefix="urbansound-live-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        broker, card = Broker(folder / "broker"), SoundCard(folder / "sound", RATE_HZ)
        broker.start()
        stack.callback(broker.kill)
        witness = Witness(broker.port, "witness")
        stack.callback(witness.close)
        card.start()
        stack.callback(card.kill)
        stack.callback(Loudspeaker(card, street(STREET_S, RATE_HZ), RATE_HZ).close)
        config = folder / "agent.toml"
        config.write_text(
            f'[audio]\ndevice = "{DEVICE}"\nsample_rate_hz = {RATE_HZ}\n[mqtt]\nhost = "{HOST}"\nport = {broker.port}\n'
            f'[spool]\npath = "{folder / "spool.sqlite"}"\n'
        )
        ready = stack.enter_context(_systemd(folder / "notify"))
        begun_s = time.monotonic()
        agent = Child(
            [sys.executable, "-m", "agent.cli", "run", "--config", config],
            folder / "agent.log",
            card.environment | {"NOTIFY_SOCKET": str(folder / "notify")},
        )
        stack.callback(agent.kill)
        while not ready.wait(0.1):
            if agent.code is not None or time.monotonic() - begun_s > READY_LIMIT_S:
                raise CampaignError(f"the agent does not get ready: {agent.log.read_text()[-500:]}")
        ready_s, ready_cpu_s = time.monotonic() - begun_s, _cpu_s(agent.pid)
        time.sleep(WARM_S)
        from_s, from_cpu_s = time.monotonic(), _cpu_s(agent.pid)
        time.sleep(seconds)
        to_s, to_cpu_s = time.monotonic(), _cpu_s(agent.pid)
        resident_mib = _resident_mib(agent.pid)
        agent.stop()
        return Listened(
            ready_s=ready_s,
            ready_cpu_s=ready_cpu_s,
            seconds=to_s - from_s,
            cpu_share=(to_cpu_s - from_cpu_s) / (to_s - from_s),
            resident_mib=resident_mib,
            health=witness.health[-1][1],
        )


def live_table(listened: Listened) -> Iterator[str]:
    """The same as Markdown."""
    yield f"| the whole agent, live, {listened.seconds:.0f} s | |"
    yield "|---|---|"
    yield f"| of one core | {listened.cpu_share:.2%} |"
    yield f"| resident memory | {listened.resident_mib:.0f} MiB |"
    yield f"| from the start of the process to READY, one second of sound included | {listened.ready_s:.1f} s |"
    yield f"| processor time of that start | {listened.ready_cpu_s:.2f} s |"
    health = listened.health
    yield f"| seconds analysed, and lost, by its own account | {health['analysed_s']}, {health['lost_s']} |"


@contextlib.contextmanager
def _systemd(path: Path) -> Iterator[threading.Event]:
    """A notify socket whose end takes everything, as systemd's does; gives what is set at READY."""
    ready = threading.Event()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(path))

        def take() -> None:
            while told := notify.recv(4096):
                if b"READY=1" in told:
                    ready.set()

        taker = threading.Thread(target=take, name="systemd", daemon=True)
        taker.start()
        yield ready
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", str(path))
        taker.join()


def _cpu_s(pid: int) -> float:
    """Processor time of a process. Source: proc(5), stat, fields 14 and 15."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mib(pid: int) -> float:
    match = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) / 1024
