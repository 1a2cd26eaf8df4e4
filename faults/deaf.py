"""Deaf time: whatever keeps the node from hearing, it says so within ten seconds, and hears again by itself.

In: what to break. Out: how soon a subscriber was told, and how soon it was told that the node hears again. Real time, a
real PulseAudio through PortAudio, the agent as it is. Who starts it again when it leaves for a fresh start is played by
the campaign: after `RESTART_S`, as the unit says.
"""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from agent.values import FloatArray
from demo.scene import SAMPLE_RATE_HZ
from faults.children import Broker, CampaignError, Child, wait_until
from faults.soundcard import DEVICE, Loudspeaker, Pcm, SoundCard
from faults.street import make_street, write_config
from faults.witness import Witness

RESTART_S = 1.0  # RestartSec of the unit
BROKEN_S = 14.0  # more than the time in which it must be noticed
HEALTHY_S = 3.0
NOTICE_LIMIT_S = 30.0
RECOVERY_LIMIT_S = 90.0
STREET_S = 30.0
SMALL = 300  # of 32 767

HEARS, NEVER = "hearing", float("inf")


@dataclass
class Deafness:
    """What became of one fault.

    Attributes:
        kind: what was broken.
        noticed_s: until a subscriber was told that the node does not hear.
        said: as what.
        recovered_s: from the end of the fault until a subscriber was told that it hears.
        problems: in words.
    """

    kind: str
    noticed_s: float = NEVER
    said: str = ""
    recovered_s: float = NEVER
    problems: list[str] = field(default_factory=list)


class Keeper:
    """Plays systemd: starts the agent, and starts it again when it has left.

    Args:
        start: starts it.
    """

    def __init__(self, start: Callable[[], Child]) -> None:
        self._start = start
        self.child = start()
        self.codes: list[int] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._thread.start()

    def close(self) -> int:
        """Ask the agent to stop, for good; give its exit code."""
        self._done.set()
        self._thread.join(RESTART_S + 5.0)
        return self.child.stop() if self.child.code is None else self.child.code

    def _keep(self) -> None:
        while not self._done.wait(0.05):
            code = self.child.code
            if code is not None:
                self.codes.append(code)
                if self._done.wait(RESTART_S):
                    return
                self.child = self._start()


class Ward:
    """One node with one sound card, to be made deaf.

    Args:
        folder: for all its files.
        samples: what it hears.
    """

    def __init__(self, folder: Path, samples: FloatArray) -> None:
        folder.mkdir()
        self._folder = folder
        self.card = SoundCard(folder / "sound", SAMPLE_RATE_HZ)
        self.broker = Broker(folder / "broker")
        self._samples = samples
        self._config = write_config(folder, port=self.broker.port, device=DEVICE)

    def suffer(self, kind: str) -> Deafness:
        """Break it, wait until it is said, mend it, wait until it hears.

        Raises:
            CampaignError: the node does not hear at the start.
        """
        deafness = Deafness(kind)
        with contextlib.ExitStack() as stack:
            self.broker.start()
            stack.callback(self.broker.kill)
            self.witness = Witness(self.broker.port, "witness")
            stack.callback(self.witness.close)
            self.card.start()
            stack.callback(self.card.kill)
            self.loudspeaker = Loudspeaker(self.card, self._samples, SAMPLE_RATE_HZ)
            stack.callback(self.loudspeaker.close)
            self.keeper = Keeper(self._start)
            stack.callback(self.keeper.child.kill)
            wait_until(lambda: self._state(0.0) == HEARS, "the node to hear")
            time.sleep(HEALTHY_S)
            breaks, mends = FAULTS[kind]
            broken_s = time.monotonic()
            breaks(self)
            with contextlib.suppress(CampaignError):
                wait_until(lambda: self._state(broken_s) not in ("", HEARS), "it to be said", NOTICE_LIMIT_S)
                deafness.noticed_s = time.monotonic() - broken_s
                deafness.said = self._state(broken_s)
            time.sleep(max(0.0, BROKEN_S - (time.monotonic() - broken_s)))
            mended_s = time.monotonic()
            mends(self)
            with contextlib.suppress(CampaignError):
                wait_until(lambda: self._hears_since(mended_s), "the node to hear again", RECOVERY_LIMIT_S)
                deafness.recovered_s = time.monotonic() - mended_s
            code = self.keeper.close()
            if code != 128 + signal.SIGTERM:
                deafness.problems.append(f"the agent ended with {code} after SIGTERM")
            strange = [code for code in self.keeper.codes if code not in {69, 74}]
            if strange:
                deafness.problems.append(f"the agent left with {strange}, expected 69 or 74")
        return deafness

    def _start(self) -> Child:
        return Child(
            [sys.executable, "-m", "faults.node", "--config", self._config],
            self._folder / "node.log",
            self.card.environment,
        )

    def _state(self, after_s: float) -> str:
        """What was last said about hearing after a moment: the state and its cause; nothing if nothing was said."""
        said = [health["liveness"] for came_s, health in list(self.witness.health) if came_s >= after_s]
        return "" if not said else " ".join(filter(None, (said[-1]["state"], said[-1].get("cause"))))

    def _hears_since(self, after_s: float) -> bool:
        """Whether it was said after a moment that it hears, or it has never stopped."""
        return self._state(after_s) == HEARS or (self._state(after_s) == "" and self._state(0.0) == HEARS)


def _hang(ward: Ward) -> None:
    ward.keeper.child.signal(signal.SIGUSR1)


def _play(change: Callable[[Pcm], Pcm]) -> Callable[[Ward], None]:
    def play(ward: Ward) -> None:
        ward.loudspeaker.change = change

    return play


def _at_pace(pace: float) -> Callable[[Ward], None]:
    def play(ward: Ward) -> None:
        ward.loudspeaker.pace = pace

    return play


def _restart(ward: Ward) -> None:
    ward.card.start()


AS_IT_IS = _play(lambda sound: sound)
FAULTS: dict[str, tuple[Callable[[Ward], None], Callable[[Ward], None]]] = {
    "device gone": (lambda ward: ward.card.pull_out(), lambda ward: ward.card.plug_in()),
    "audio server frozen": (lambda ward: ward.card.freeze(), lambda ward: ward.card.thaw()),
    "audio server killed": (lambda ward: ward.card.kill(), _restart),
    "all zero": (_play(np.zeros_like), AS_IT_IS),
    "constant": (_play(lambda sound: np.full_like(sound, SMALL)), AS_IT_IS),
    "clipped": (_play(lambda sound: np.where(sound < 0, np.int16(-32_768), np.int16(32_767))), AS_IT_IS),
    "half the rate": (_at_pace(0.5), _at_pace(1.0)),
    "pipeline hangs": (_hang, lambda _ward: None),
}


def make_deaf(tries: int, seed: int, folder: Path, say: Callable[[str], None]) -> list[Deafness]:
    """Each fault so many times, all faults at once: each has a node, a broker and a sound card of its own."""
    samples = make_street(folder / "street.wav", STREET_S, seed)
    outcomes: list[Deafness] = []

    def suffer(kind: str, number: int) -> Deafness:
        return Ward(folder / f"{kind.replace(' ', '-')}-{number}", samples).suffer(kind)

    for number in range(tries):
        with ThreadPoolExecutor(len(FAULTS)) as pool:
            for deafness in pool.map(suffer, FAULTS, [number] * len(FAULTS)):
                outcomes.append(deafness)
                say(
                    f"{deafness.kind}: said after {deafness.noticed_s:.1f} s as {deafness.said or 'nothing'}, "
                    f"hears again after {deafness.recovered_s:.1f} s"
                )
                for problem in deafness.problems:
                    say(f"  {problem}")
    return outcomes
