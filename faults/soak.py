"""`make soak`: a day of sound through the live path, faster than real time, and what the agent needs for it.

In: how many hours of sound. Out: for each hour its resident memory, its open descriptors, the size of the spool's
files, and how many messages came. The agent is one process from beginning to end, with a broker and a subscriber.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from faults.children import Broker, CampaignError, Child, wait_until
from faults.street import make_street, write_config
from faults.witness import Witness

HOUR_S = 3600.0
SPEED = 2000.0  # times real time, or as fast as it goes
STREET_S = 120.0
HOUR_LIMIT_S = 900.0
GROWTH_LIMIT = 0.02  # of the memory after the first hour
SETTLING_HOURS = 1


@dataclass(frozen=True)
class Hour:
    """The agent after so many hours of sound.

    Attributes:
        hour: how many.
        memory_bytes: resident, as `ps` has it.
        private_bytes: of that, what is not of files: libraries and networks are.
        descriptors: that it has open.
        spool_bytes: of the spool's files.
        told: messages that came so far.
        took_s: how long this hour took.
    """

    hour: int
    memory_bytes: int
    private_bytes: int
    descriptors: int
    spool_bytes: int
    told: int
    took_s: float


def soak(hours: int, seed: int, folder: Path) -> Iterator[Hour]:
    """Let it hear so many hours; give each when it is over.

    Raises:
        CampaignError: the agent ended, or does not go on.
    """
    street = folder / "street.wav"
    make_street(street, STREET_S, seed)
    spool = folder / "spool"
    spool.mkdir()
    progress = folder / "progress"
    with contextlib.ExitStack() as stack:
        broker = Broker(folder / "broker")
        broker.start()
        stack.callback(broker.kill)
        witness = Witness(broker.port, "witness")
        stack.callback(witness.close)
        config = write_config(folder, port=broker.port, spool=spool)
        command = [sys.executable, "-m", "faults.node", "--config", str(config), "--sound", str(street)]
        command += ["--speed", str(SPEED), "--forever", "--progress", str(progress)]
        node = Child(command, folder / "node.log")
        stack.callback(node.kill)
        for hour in range(1, hours + 1):
            began_s = time.monotonic()
            wait_until(_heard(node, progress, hour * HOUR_S), f"hour {hour}", HOUR_LIMIT_S)
            yield Hour(
                hour=hour,
                memory_bytes=_memory(node.pid, "VmRSS"),
                private_bytes=_memory(node.pid, "RssAnon"),
                descriptors=len(list(Path(f"/proc/{node.pid}/fd").iterdir())),
                spool_bytes=sum(file.stat().st_size for file in spool.iterdir()),
                told=len(witness.told),
                took_s=time.monotonic() - began_s,
            )
            witness.told.clear()
        node.stop()


def _heard(node: Child, progress: Path, until_s: float) -> Callable[[], bool]:
    def heard() -> bool:
        if node.code is not None:
            raise CampaignError(f"the agent ended with {node.code}: {node.log.read_text()[-500:]}")
        return progress.is_file() and float(progress.read_text() or 0.0) >= until_s

    return heard


def _memory(pid: int, name: str) -> int:
    """Memory of a process by the kernel's name for it, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise CampaignError(f"process {pid} has no {name}")


def growth(hours: list[Hour]) -> float:
    """How much the memory grew after the first hour, as a share of what it was then."""
    first = hours[SETTLING_HOURS - 1].memory_bytes
    return (max(hour.memory_bytes for hour in hours[SETTLING_HOURS - 1 :]) - first) / first
