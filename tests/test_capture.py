"""The microphone is heard sample by sample, and every sample that could not be heard is counted."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from scipy import signal

from agent.capture import ArrivalClock, Microphone
from agent.errors import DeviceAwayError, DeviceError, DeviceHungError
from agent.portaudio import StreamSettings
from agent.ring import Ring
from agent.values import AudioBlock, FloatArray
from tests.sound_server import SAMPLE_RATE_HZ, SoundServer

RATE_HZ = 1_000
BLOCK = 100
DEADLINE_S = 20.0
HANGING_S = 0.5


class Listener:
    """Reads blocks of 0.1 s from a simulated card and keeps the true account.

    Args:
        ppm: how much faster than nominal the card's own clock runs.
        burst: blocks that the sound server delivers at a time.
    """

    def __init__(self, *, ppm: float = 0.0, burst: int = 1) -> None:
        self.clock = ArrivalClock(RATE_HZ)
        self.true_rate_hz = RATE_HZ * (1.0 + ppm * 1e-6)
        self.burst = burst
        self.frozen_until_s = 0.0
        self.now_s = 5_000.0
        self.began_s = self.now_s
        self.n_heard = 0  # by the card, the lost ones included
        self.n_lost = 0
        self.told: list[tuple[float, int]] = []

    def read(self, n_blocks: int = 1, *, gap: bool = False) -> None:
        for i in range(n_blocks):
            self.n_heard += BLOCK
            in_burst = (
                self.n_heard if self.burst == 1 else -(-self.n_heard // (BLOCK * self.burst)) * BLOCK * self.burst
            )
            asked_s = self.now_s
            self.now_s = max(self.now_s + 1e-5, self.began_s + in_burst / self.true_rate_hz, self.frozen_until_s)
            lost = self.clock.arrived(BLOCK, asked_s=asked_s, came_s=self.now_s, gap=gap and i == 0)
            if lost:
                self.told.append((self.now_s, lost))

    def lose(self, seconds: float) -> None:
        """The card goes on, its samples are dropped."""
        self.n_heard += round(seconds * RATE_HZ)

    def stall(self, seconds: float) -> None:
        """Nobody reads for a while; the samples wait."""
        self.now_s += seconds

    def freeze(self, seconds: float) -> None:
        """The sound server delivers nothing for a while, and then everything."""
        self.frozen_until_s = self.now_s + seconds

    @property
    def anchor_error_s(self) -> float:
        """How far the time of the newest sample is off."""
        return self.clock.anchor[1] - (self.began_s + self.n_heard / self.true_rate_hz)


@pytest.mark.parametrize("burst", [1, 2])
@pytest.mark.parametrize("ppm", [-500, -50, 0, 50, 500])
def test_a_card_that_is_a_little_fast_or_slow_loses_nothing(ppm: float, burst: int) -> None:
    """Hours at hundreds of ppm are no loss, and the times of the samples stay right."""
    listener = Listener(ppm=ppm, burst=burst)
    for _ in range(360):
        listener.read(100)
        assert abs(listener.anchor_error_s) < 0.03

    assert listener.told == []


@pytest.mark.parametrize("lost_s", [0.4, 0.8, 5.0, 400.0])
@pytest.mark.parametrize("burst", [1, 2])
def test_a_loss_that_nobody_reports_is_found_by_the_clock(lost_s: float, burst: int) -> None:
    """Samples that a sound server dropped in silence are told within 2 s, with their number."""
    listener = Listener(ppm=100, burst=burst)
    listener.read(1000)
    listener.lose(lost_s)
    lost_at_s = listener.now_s + lost_s
    listener.read(1000)

    assert len(listener.told) == 1
    told_s, lost = listener.told[0]
    assert told_s < lost_at_s + 2.0
    assert lost == pytest.approx(lost_s * RATE_HZ, abs=0.11 * RATE_HZ)
    assert abs(listener.anchor_error_s) < 0.03


@pytest.mark.parametrize("stall_s", [0.5, 1.2, 5.0])
def test_a_late_reader_is_not_taken_for_a_loss(stall_s: float) -> None:
    """However often and long the reader is held up: as long as the samples wait for it, nothing is called lost."""
    listener = Listener()
    listener.read(50)
    for _ in range(20):
        listener.stall(stall_s)
        listener.read(2)
        listener.stall(stall_s)
        listener.read(40)

    assert listener.told == []
    assert abs(listener.anchor_error_s) < 0.001


@pytest.mark.parametrize("frozen_s", [0.5, 0.9, 3.0])
def test_a_late_delivery_is_not_taken_for_a_loss(frozen_s: float) -> None:
    """A sound server that stutters, time and again, and then delivers everything has lost nothing."""
    listener = Listener(burst=2)
    listener.read(50)
    for _ in range(20):
        listener.freeze(frozen_s)
        listener.read(60)

    assert listener.told == []
    assert abs(listener.anchor_error_s) < 0.001


def test_a_reported_loss_is_told_at_once() -> None:
    """When the card says that it lost samples, the next block says how many are missing by the clock, at least one."""
    listener = Listener()
    listener.read(100)
    listener.lose(0.25)
    listener.read(gap=True)
    listener.read(100)
    listener.read(gap=True)

    assert [lost for _, lost in listener.told] == [250, 1]


def test_a_card_at_half_its_rate_is_not_taken_for_a_good_one() -> None:
    """A card that gives half the samples that it promises has the other half counted as lost."""
    listener = Listener(ppm=-500_000)
    listener.read(1000)

    assert sum(lost for _, lost in listener.told) == pytest.approx(100_000, rel=0.03)


def test_a_short_unreported_loss_does_not_shift_the_times_for_long() -> None:
    """A loss too short to be sure of is not told, but seconds later the times of samples are right again."""
    listener = Listener()
    listener.read(100)
    listener.lose(0.2)
    listener.read(200)

    assert listener.told == []
    assert abs(listener.anchor_error_s) < 0.03


def test_a_late_first_read_does_not_shift_the_times() -> None:
    """When the first samples are picked up late, the times of samples are right as soon as one comes in time."""
    listener = Listener()
    listener.stall(1.1)
    listener.read(1)
    assert listener.anchor_error_s == pytest.approx(1.0, abs=0.001)

    listener.read(20)

    assert abs(listener.anchor_error_s) < 0.001


# The microphone, with a sound card that can be broken at will


class FakeCard:
    """A sound card that follows a script, in its own time: every sample's value is its true index.

    Args:
        script: for each opening a `DeviceError`, or what the stream does: `read` (a number of blocks), `lose` (so many
            seconds, reported or not), `unplug` (for so many seconds). When the script ends, a read waits for `release`.
        n_channels: channel c has the samples' values plus c * 10 million.
    """

    def __init__(self, *script: DeviceError | list[tuple[str, float]], n_channels: int = 1) -> None:
        self.script = list(script)
        self.n_channels = n_channels
        self.now_s = 1000.0
        self.opened_with: list[tuple[StreamSettings, bool]] = []
        self.n_open = 0
        self.sample_rates_hz = [RATE_HZ]
        self.finished = threading.Event()
        self.release = threading.Event()
        self.close_hangs = False
        self.spoil: Callable[[FloatArray], None] = lambda samples: None

    def open(self, settings: StreamSettings, refresh: bool) -> "FakeStream":
        assert self.n_open == 0, "PortAudio must not be initialised anew while a stream is open"
        self.opened_with.append((settings, refresh))
        step = self.script.pop(0) if self.script else []
        if isinstance(step, DeviceError):
            raise step
        self.n_open += 1
        rate_hz = self.sample_rates_hz.pop(0) if len(self.sample_rates_hz) > 1 else self.sample_rates_hz[0]
        return FakeStream(self, step, rate_hz)

    def monotonic(self) -> float:
        return self.now_s

    @property
    def heard(self) -> int:
        return round((self.now_s - 1000.0) * RATE_HZ)


class FakeStream:
    description = "fake"

    def __init__(self, card: FakeCard, steps: list[tuple[str, float]], sample_rate_hz: int) -> None:
        self.card = card
        self.steps = steps
        self.sample_rate_hz = sample_rate_hz

    def start(self) -> None:
        pass

    def read(self, n_samples: int) -> tuple[FloatArray, bool]:
        card = self.card
        overflowed = False
        while self.steps and self.steps[0][0] != "read":
            what, seconds = self.steps.pop(0)
            card.now_s += seconds
            if what == "unplug":
                raise DeviceAwayError("the plug was pulled")
            overflowed = what == "lose, reported"
        if not self.steps:
            card.finished.set()
            card.release.wait(DEADLINE_S)
            raise DeviceAwayError("the script is over")
        n_left = self.steps[0][1] - 1
        self.steps[:1] = [("read", n_left)] if n_left else []
        ramp = np.arange(card.heard, card.heard + n_samples, dtype=np.float32)
        card.now_s += n_samples / RATE_HZ
        samples = ramp[:, None] + 1e7 * np.arange(card.n_channels, dtype=np.float32)
        card.spoil(samples)
        return samples, overflowed

    def close(self) -> None:
        if self.card.close_hangs:
            self.card.release.wait(DEADLINE_S)
        self.card.n_open -= 1


def microphone_on(card: FakeCard, **options: Any) -> Microphone:  # noqa: ANN401
    defaults: dict[str, Any] = {"backoff_s": (0.001, 0.004), "block_s": BLOCK / RATE_HZ}
    return Microphone(open_stream=card.open, monotonic=card.monotonic, **(defaults | options))


def heard(card: FakeCard, microphone: Microphone) -> list[AudioBlock]:
    """Run the whole script and stop."""
    ring = Ring(1_000_000)
    assert microphone.open() == RATE_HZ
    microphone.start(ring)
    assert card.finished.wait(DEADLINE_S)
    card.release.set()
    microphone.stop()
    return list(blocks_of(ring))


def blocks_of(ring: Ring) -> Iterator[AudioBlock]:
    while (block := ring.read(DEADLINE_S, 1_000_000)) is not None:
        yield block


def spans(blocks: list[AudioBlock]) -> list[tuple[int, int, int]]:
    return [(block.lost_before, block.first_sample, len(block.samples)) for block in blocks]


def test_every_sample_of_the_card_arrives() -> None:
    """What the card hears is in the ring, from the first sample on, and the ring is closed in the end."""
    card = FakeCard([("read", 50)])
    microphone = microphone_on(card)

    blocks = heard(card, microphone)

    assert spans(blocks) == [(0, 0, 5000)]
    np.testing.assert_array_equal(blocks[0].samples, np.arange(5000))
    snapshot = microphone.snapshot()
    assert (snapshot.state, snapshot.captured_samples, snapshot.lost_samples) == ("stopped", 5000, 0)
    anchor = microphone.anchor()
    assert anchor is not None
    assert (anchor[0], round(anchor[1], 6)) == (5000, 1005.0)
    assert card.n_open == 0


def test_a_reported_overflow_is_told_with_the_next_block_and_counted() -> None:
    """Samples that the card reports as lost are a gap of their true length, not a splice."""
    card = FakeCard([("read", 10), ("lose, reported", 0.4), ("read", 10)])
    microphone = microphone_on(card)

    blocks = heard(card, microphone)

    assert spans(blocks) == [(0, 0, 1000), (400, 1400, 1000)]
    assert blocks[1].samples[0] == blocks[1].first_sample
    snapshot = microphone.snapshot()
    assert (snapshot.overflows, snapshot.lost_samples, snapshot.captured_samples) == (1, 400, 2000)


def test_an_unreported_loss_is_told_by_the_clock() -> None:
    """Samples that vanished in silence are counted too, a second later, and then every index is true again."""
    card = FakeCard([("read", 50), ("lose", 0.8), ("read", 50)])
    microphone = microphone_on(card)

    blocks = heard(card, microphone)

    assert [block.lost_before for block in blocks] == [0, 800]
    assert blocks[1].samples[0] == blocks[1].first_sample
    assert (microphone.snapshot().overflows, microphone.snapshot().lost_samples) == (0, 800)


def test_a_pulled_plug_is_waited_out_and_its_time_counted(caplog: pytest.LogCaptureFixture) -> None:
    """When the device goes and comes back, the next block says how long it was away, and the indices are true."""
    away = DeviceAwayError('no input device "usb"')
    card = FakeCard([("read", 10), ("unplug", 7.0)], away, away, [("read", 10)])
    microphone = microphone_on(card, device="usb")

    with caplog.at_level(logging.INFO, "agent.capture"):
        blocks = heard(card, microphone)

    assert spans(blocks) == [(0, 0, 1000), (7000, 8000, 1000)]
    assert blocks[1].samples[0] == blocks[1].first_sample
    assert [refresh for _, refresh in card.opened_with] == [False, True, True, True]
    assert {settings.sample_rate_hz for settings, _ in card.opened_with[1:]} == {RATE_HZ}
    snapshot = microphone.snapshot()
    assert (snapshot.reopened, snapshot.lost_samples, snapshot.captured_samples) == (1, 7000, 2000)
    assert [record.getMessage() for record in caplog.records[1:4]] == [
        "capture.lost reason=the plug was pulled",
        'capture.waiting retry_s=0.002 reason=no input device "usb"',
        'capture.waiting retry_s=0.004 reason=no input device "usb"',
    ]


def test_each_gap_has_its_cause() -> None:
    """A device that was away and sound that was dropped are told apart, gap by gap."""
    card = FakeCard([("read", 10), ("lose, reported", 0.4), ("read", 10), ("unplug", 3.0)], [("read", 10)])
    microphone = microphone_on(card)

    blocks = heard(card, microphone)

    gaps = [block.first_sample for block in blocks if block.lost_before]
    assert [microphone.cause_of_gap(first_sample) for first_sample in gaps] == ["dropped", "device"]


def test_a_read_that_does_not_come_back_can_be_abandoned() -> None:
    """When it is known that PortAudio hangs, nobody waits for it: the ring is closed at once."""
    card = FakeCard([("read", 5)])
    microphone = microphone_on(card)
    ring = Ring(10_000)
    microphone.open()
    microphone.start(ring)
    assert card.finished.wait(DEADLINE_S)

    microphone.abandon()

    assert microphone.hung
    assert spans(list(blocks_of(ring))) == [(0, 0, 500)]
    card.release.set()


def test_the_rate_stays_the_same_when_the_device_comes_back() -> None:
    """A device that comes back at another rate is not taken; one with the old rate is waited for."""
    card = FakeCard([("read", 10), ("unplug", 1.0)], [("read", 10)], [("read", 10)])
    card.sample_rates_hz = [RATE_HZ, 2 * RATE_HZ, RATE_HZ]
    microphone = microphone_on(card)

    blocks = heard(card, microphone)

    assert spans(blocks) == [(0, 0, 1000), (1000, 2000, 1000)]
    assert len(card.opened_with) == 3


def test_a_device_that_is_missing_at_start_is_waited_for_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    """Each attempt to open is one line in the log with the reason, and the waits double up to the longest."""
    card = FakeCard(*[DeviceAwayError("nothing plugged in")] * 5, [("read", 1)])
    microphone = microphone_on(card)

    with caplog.at_level(logging.INFO, "agent.capture"):
        assert microphone.open() == RATE_HZ

    assert [record.getMessage() for record in caplog.records] == [
        f"capture.waiting retry_s={delay} reason=nothing plugged in" for delay in (0.001, 0.002, 0.004, 0.004, 0.004)
    ] + ["capture.opened device=fake rate_hz=1000"]
    microphone.stop()
    assert card.n_open == 0


def test_what_waiting_cannot_help_is_raised_at_once() -> None:
    """An ambiguous name or a refused rate ends the start instead of being tried for ever."""
    microphone = microphone_on(FakeCard(DeviceError("input device is ambiguous")))

    with pytest.raises(DeviceError, match="ambiguous"):
        microphone.open()


def test_stop_ends_the_wait_for_a_missing_device() -> None:
    """Whoever waits for a device for half a minute can still be stopped at once."""
    card = FakeCard(DeviceAwayError("nothing plugged in"))
    microphone = microphone_on(card, backoff_s=(1000.0, 1000.0))
    opened: list[int | None] = []
    opener = threading.Thread(target=lambda: opened.append(microphone.open()))
    opener.start()
    wait_until(lambda: microphone.snapshot().state == "waiting")

    microphone.stop()
    opener.join(DEADLINE_S)

    assert opened == [None]
    assert microphone.snapshot().state == "stopped"


def test_stop_ends_the_wait_for_a_lost_device() -> None:
    """Stopping while the device is away ends the stream at once, with what was heard."""
    card = FakeCard([("read", 10), ("unplug", 1.0)])
    microphone = microphone_on(card, backoff_s=(1000.0, 1000.0))
    ring = Ring(10_000)
    microphone.open()
    microphone.start(ring)
    wait_until(lambda: microphone.snapshot().state == "waiting")

    microphone.stop()

    assert spans(list(blocks_of(ring))) == [(0, 0, 1000)]
    assert microphone.snapshot().state == "stopped"


def test_one_channel_is_chosen() -> None:
    """A chosen channel is heard alone."""
    card = FakeCard([("read", 1)], n_channels=3)

    blocks = heard(card, microphone_on(card, channel=2))

    np.testing.assert_array_equal(blocks[0].samples, np.float32(1e7) + np.arange(BLOCK, dtype=np.float32))


def test_a_mix_is_the_mean() -> None:
    """A mix is the mean of all channels."""
    card = FakeCard([("read", 1)], n_channels=2)

    blocks = heard(card, microphone_on(card, channel="mix"))

    np.testing.assert_allclose(blocks[0].samples, 5e6 + np.arange(BLOCK), rtol=1e-6)


def test_invalid_samples_of_a_device_become_silence_and_are_counted() -> None:
    """NaN and infinite samples from a broken driver are replaced by 0 and counted."""
    card = FakeCard([("read", 2)])

    def spoil(samples: FloatArray) -> None:
        samples[[3, 4, 5], 0] = np.nan, np.inf, -np.inf

    card.spoil = spoil
    microphone = microphone_on(card)

    (block,) = heard(card, microphone)

    expected = np.arange(2 * BLOCK, dtype=np.float32)
    expected[[3, 4, 5, BLOCK + 3, BLOCK + 4, BLOCK + 5]] = 0.0
    np.testing.assert_array_equal(block.samples, expected)
    assert microphone.snapshot().invalid_samples == 6


def test_a_device_that_cannot_be_closed_does_not_stop_the_stop() -> None:
    """When closing hangs, `stop` comes back in time and says that the process should be ended hard."""
    card = FakeCard([("read", 5)])
    card.close_hangs = True
    microphone = microphone_on(card, close_deadline_s=HANGING_S)
    ring = Ring(10_000)
    microphone.open()

    microphone.stop()

    assert microphone.hung
    card.release.set()
    assert not ring.closed  # it never started


def test_a_lost_device_that_cannot_be_closed_ends_the_stream() -> None:
    """When the device vanishes and closing it hangs, the pipeline learns that there will be no more sound."""
    card = FakeCard([("read", 5), ("unplug", 1.0)], [("read", 5)])
    card.close_hangs = True
    microphone = microphone_on(card, close_deadline_s=HANGING_S)
    ring = Ring(10_000)
    microphone.open()
    microphone.start(ring)
    wait_until(lambda: ring.closed)

    assert spans(list(blocks_of(ring))) == [(0, 0, 500)]
    assert microphone.hung
    assert len(card.opened_with) == 1, "what hangs must not be touched again"
    microphone.stop()
    assert microphone.hung
    card.release.set()


def test_a_read_that_never_returns_does_not_stop_the_stop() -> None:
    """When the sound server freezes in the middle of a read, `stop` comes back in time, and the ring is closed."""
    card = FakeCard([("read", 5)])
    microphone = microphone_on(card, close_deadline_s=HANGING_S)
    ring = Ring(10_000)
    microphone.open()
    microphone.start(ring)
    assert card.finished.wait(DEADLINE_S)

    microphone.stop()

    assert microphone.hung
    assert spans(list(blocks_of(ring))) == [(0, 0, 500)]
    card.release.set()


def test_an_open_that_never_returns_is_told() -> None:
    """When opening hangs, that is an error and not a silent wait for ever."""
    released = threading.Event()

    def hang(settings: StreamSettings, refresh: bool) -> FakeStream:
        released.wait(DEADLINE_S)
        raise DeviceAwayError("too late")

    microphone = Microphone(open_stream=hang, open_deadline_s=HANGING_S)

    with pytest.raises(DeviceHungError, match=r"does not open within 0\.5 s"):
        microphone.open()

    assert microphone.hung
    released.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_ends_the_stream_and_is_not_hidden() -> None:
    """An error that nobody expected ends the stream, so that the pipeline does not wait for ever."""
    card = FakeCard([("read", 5)])

    def spoil(samples: FloatArray) -> None:
        raise ZeroDivisionError

    card.spoil = spoil
    microphone = microphone_on(card)
    ring = Ring(10_000)
    microphone.open()
    microphone.start(ring)

    assert list(blocks_of(ring)) == []
    microphone.stop()
    assert microphone.snapshot().state == "failed"


# The real PortAudio, on a real PulseAudio

RECORDER = """
import ctypes, json, os, sys, threading, time
ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)  # PR_SET_MDWE: no writable and executable memory, as under the hardened unit
import numpy as np
from agent.capture import Microphone
from agent.ring import Ring

microphone = Microphone(**json.loads(sys.argv[1]))
asked = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), asked.set()), daemon=True).start()

def tell(**facts):
    print(json.dumps(facts), flush=True)

rate = microphone.open()
ring = Ring(60 * rate)
microphone.start(ring)
blocks, previous_s, enough = [], 0.0, None
while enough is None or blocks[-1].first_sample < enough:
    block = ring.read(0.2, 60 * rate)
    if asked.is_set() and enough is None:
        enough = (blocks[-1].first_sample + rate // 2) if int(sys.argv[3]) else 0
    if block is None:
        if asked.is_set() and not int(sys.argv[3]):
            break
        continue
    now_s = time.monotonic()
    if not blocks:
        tell(heard=rate)
    elif block.lost_before:
        tell(lost_s=block.lost_before / rate, away_s=now_s - previous_s - len(block.samples) / rate)
    blocks.append(block)
    previous_s = now_s
microphone.stop()
np.save(sys.argv[2], np.concatenate([block.samples for block in blocks]))
snapshot = microphone.snapshot()
tell(anchor=microphone.anchor(), state=snapshot.state, lost=snapshot.lost_samples, reopened=snapshot.reopened)
sys.stdout.flush()
if microphone.hung:
    os._exit(74)
"""


class Recorder:
    """A child process that captures into memory until it is asked to finish.

    Args:
        server: the sound card.
        folder: where the samples go.
        go_on: whether to go on for half a second of sound when asked to finish.
        options: of the `Microphone`.
    """

    def __init__(self, server: SoundServer, folder: Path, *, go_on: bool = True, **options: Any) -> None:  # noqa: ANN401
        self._samples = folder / "captured.npy"
        command = [sys.executable, "-c", RECORDER, json.dumps(options), str(self._samples), str(int(go_on))]
        environment = server.environment | {"PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        # A recorder that hangs must not hang the test: without it the pipe ends.
        self._guard = threading.Timer(60.0, self.process.kill)
        self._guard.start()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *error: object) -> None:
        self._guard.cancel()
        self.process.kill()
        self.process.communicate()

    def hears(self) -> dict[str, Any]:
        """Wait for the next thing that the recorder tells."""
        assert self.process.stdout is not None
        told: dict[str, Any] = json.loads(self.process.stdout.readline())
        return told

    def finish(self) -> tuple[FloatArray, dict[str, Any]]:
        """Let it end, and give float32 (n,) and what it tells in the end."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        told = self.hears()
        self.process.wait(DEADLINE_S)
        return np.load(self._samples), told


def test_the_microphone_hears_what_is_played_sample_by_sample(
    sound_server: SoundServer, recordings: Path, tmp_path: Path
) -> None:
    """A street recording played into a real sound server comes out of the ring as it went in, every sample equal."""
    street, rate_hz = soundfile.read(recordings / "sonyc" / "08_003165.flac", dtype="float32", frames=2 * 44_100)
    played = np.round(soxr.resample(street, rate_hz, SAMPLE_RATE_HZ) * 32767).astype(np.int16)
    # Silence first: a null sink drops some milliseconds where a player joins it.
    run_in = np.zeros(SAMPLE_RATE_HZ // 4, np.int16)
    soundfile.write(tmp_path / "played.wav", np.concatenate((run_in, played)), SAMPLE_RATE_HZ)

    with Recorder(
        sound_server, tmp_path, device=sound_server.device, sample_rate_hz=SAMPLE_RATE_HZ, channel=1
    ) as recorder:
        assert recorder.hears() == {"heard": SAMPLE_RATE_HZ}
        assert sound_server.play(tmp_path / "played.wav").wait(DEADLINE_S) == 0
        samples, told = recorder.finish()

    captured = np.round(samples * 32768).astype(np.int16)
    likeness = signal.correlate(samples, played.astype(np.float32), mode="valid")
    start = int(np.argmax(likeness))
    np.testing.assert_array_equal(captured[start : start + len(played)], played)
    assert (told["state"], told["lost"], told["reopened"]) == ("stopped", 0, 0)


def test_the_time_of_a_sample_is_when_it_was_heard(breakable_sound_server: SoundServer, tmp_path: Path) -> None:
    """Clicks whose time is known are dated by the anchor to some hundredths of a second."""
    fifo = breakable_sound_server.load_fifo()
    clicks_s: list[float] = []
    done = threading.Event()

    def feed() -> None:
        """Write in real time, a click twice a second."""
        with fifo.open("wb", buffering=0) as pipe:
            began_s = time.monotonic()
            for n in range(1, 2000):
                samples = np.zeros(SAMPLE_RATE_HZ // 100, np.int16)
                if n % 50 == 0:
                    samples[-1] = 20_000
                if done.wait(max(0.0, began_s + n / 100 - time.monotonic())):
                    return
                if n % 50 == 0:
                    clicks_s.append(time.monotonic())
                pipe.write(samples.tobytes())

    feeder = threading.Thread(target=feed)
    feeder.start()
    with Recorder(
        breakable_sound_server, tmp_path, device="fifomic", sample_rate_hz=SAMPLE_RATE_HZ, channel=1
    ) as recorder:
        recorder.hears()
        n_before = len(clicks_s)
        wait_until(lambda: len(clicks_s) >= n_before + 4)
        samples, told = recorder.finish()
    done.set()
    feeder.join(DEADLINE_S)

    index, heard_s = told["anchor"]
    dated_s = heard_s + (np.flatnonzero(samples > 0.3) - index) / SAMPLE_RATE_HZ
    assert len(dated_s) >= 4
    errors_s = [min(abs(dated - click) for click in clicks_s) for dated in dated_s]
    assert max(errors_s) < 0.05


def test_a_sound_server_that_dies_and_comes_back_is_heard_again(
    breakable_sound_server: SoundServer, tmp_path: Path
) -> None:
    """When the sound server is killed and started again, capture goes on, and the time away is counted as lost."""
    server = breakable_sound_server
    with Recorder(server, tmp_path, device=server.device, sample_rate_hz=SAMPLE_RATE_HZ) as recorder:
        recorder.hears()
        server.stop()
        server.start()
        gap = recorder.hears()
        _, told = recorder.finish()

    assert gap["lost_s"] == pytest.approx(gap["away_s"], abs=0.3)
    assert gap["lost_s"] > 0.5
    assert (told["state"], told["reopened"]) == ("stopped", 1)


def test_a_frozen_sound_server_does_not_keep_the_process(breakable_sound_server: SoundServer, tmp_path: Path) -> None:
    """When the sound server freezes, capture notices at the stop that it hangs, and the process can leave with 74."""
    server = breakable_sound_server
    with Recorder(server, tmp_path, go_on=False, device=server.device, close_deadline_s=0.5) as recorder:
        recorder.hears()
        server.freeze()
        _, told = recorder.finish()
        server.thaw()

    assert told["state"] == "hung"
    assert recorder.process.returncode == 74


def wait_until(happened: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not happened():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.001)  # between two looks
