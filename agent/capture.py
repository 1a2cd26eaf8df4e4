"""The microphone: the owner of PortAudio.

In: a device, by blocking reads on the thread `capture`. Out: mono samples in the `Ring`, with what was lost before
them; which input devices there are. `Microphone.open` and `stop` are called by the main thread, `snapshot` and
`anchor` by any.

There is no callback: cffi would need memory that is writable and executable, which the hardened systemd unit forbids.
PortAudio can hang for good when the sound server freezes, so opening and closing are done on a thread of their own,
under a deadline; what is hung is never touched again, and the process should end by `os._exit`.
"""

import contextlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from agent.errors import DeviceError
from agent.ring import Ring
from agent.values import FloatArray

log = logging.getLogger(__name__)

Channel = int | Literal["mix"]
State = Literal["new", "waiting", "open", "running", "stopped", "hung", "failed"]
T = TypeVar("T")

BLOCK_S = 0.1
BLOCKS_OF_LATENCY = 3  # PortAudio's own "high" is 35 ms on ALSA, less than a busy Python may let the reader wait
BACKOFF_S = (1.0, 30.0)
OPEN_DEADLINE_S = 30.0  # PortAudio looks at all devices when it is initialised: seconds on a small board
CLOSE_DEADLINE_S = 4.0  # ordinarily some 0.1 s
MIX_CHANNELS = 2  # ALSA's plugins claim to have 32

_INVALID_SAMPLE_RATE, _INVALID_CHANNEL_COUNT = -9997, -9998  # portaudio.h


class DeviceAwayError(DeviceError):
    """The microphone is not there now, but may come."""


class DeviceHungError(DeviceError):
    """PortAudio does not come back. Leave by `os._exit`: its clean-up at exit would hang as well."""


# Which devices there are


@dataclass(frozen=True, slots=True)
class InputDevice:
    """A device that can be listened to.

    Attributes:
        index: PortAudio's number; changes when something is plugged in.
        name: PortAudio's name; for ALSA hardware it ends in the ALSA name, `(hw:1,0)`.
        host_api: what PortAudio reaches it by.
        n_channels: how many it claims to have.
        default_sample_rate_hz: used where the configuration says nothing.
        is_default: used where the configuration says nothing.
    """

    index: int
    name: str
    host_api: str
    n_channels: int
    default_sample_rate_hz: int
    is_default: bool


def list_devices() -> tuple[InputDevice, ...]:
    """All input devices, as PortAudio saw them when it was initialised.

    Raises:
        DeviceError: PortAudio is not installed.
    """
    sounddevice = _sounddevice()
    default_index = sounddevice.default.device[0]
    host_apis = sounddevice.query_hostapis()
    return tuple(
        InputDevice(
            index=index,
            name=device["name"],
            host_api=host_apis[device["hostapi"]]["name"],
            n_channels=device["max_input_channels"],
            default_sample_rate_hz=round(device["default_samplerate"]),
            is_default=index == default_index,
        )
        for index, device in enumerate(sounddevice.query_devices())
        if device["max_input_channels"] > 0
    )


def find_device(wanted: str | int | None, devices: Sequence[InputDevice]) -> InputDevice:
    """The device that is meant.

    Args:
        wanted: an index, a whole name, an ALSA name like `hw:1,0` or `plughw:1`, a part of a name in any case, or
            None for the default.
        devices: those there are.

    Raises:
        DeviceAwayError: none is meant; the message says which there are.
        DeviceError: several are meant; the message says which.
    """
    if wanted is None:
        matches = [device for device in devices if device.is_default]
    elif isinstance(wanted, int):
        matches = [device for device in devices if device.index == wanted]
    else:
        matches = _named(wanted, devices)
    if len(matches) > 1:
        raise DeviceError(f"input device {_quoted(wanted)} is ambiguous, expected one of: {_listed(matches)}")
    if not matches:
        what = "default input device" if wanted is None else f"input device {_quoted(wanted)}"
        raise DeviceAwayError(f"no {what}, expected one of: {_listed(devices)}")
    return matches[0]


def configuration_line(device: InputDevice, devices: Sequence[InputDevice]) -> str:
    """What to paste below `[audio]` so that this device is found: its shortest name that means no other one."""
    # Without the ALSA name: cards are numbered in the order in which they are found.
    for name in (re.sub(r" \(hw:\d+,\d+\)$", "", device.name), device.name, _full_name(device)):
        with contextlib.suppress(DeviceError):
            if find_device(name, devices) is device:
                return f"device = {_quoted(name)}"
    return f"device = {device.index}"


def _named(wanted: str, devices: Sequence[InputDevice]) -> list[InputDevice]:
    alsa = re.fullmatch(r"(?:plug)?hw:(\d+)(?:,(\d+))?", wanted)
    part = f"(hw:{alsa[1]},{alsa[2] or 0})" if alsa else wanted.casefold()
    rules: tuple[Callable[[InputDevice], bool], ...] = (
        lambda device: wanted in {device.name, _full_name(device)},
        lambda device: part in _full_name(device).casefold(),
    )
    found = ([device for device in devices if rule(device)] for rule in rules)
    return next((matches for matches in found if matches), [])


def _full_name(device: InputDevice) -> str:
    return f"{device.name}, {device.host_api}"


def _quoted(name: str | int | None) -> str:
    """A TOML value: JSON's strings are TOML's, but for one character."""
    return json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")


def _listed(devices: Sequence[InputDevice]) -> str:
    return ", ".join(f"{device.index} {_quoted(device.name)}" for device in devices) or "(there is none)"


# How a device is read


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What to open; see `Microphone` for the meaning."""

    device: str | int | None
    sample_rate_hz: int | None
    channel: Channel
    channels: int | None
    block_s: float


class Stream(Protocol):
    """An open input. Errors are `DeviceAwayError`."""

    @property
    def sample_rate_hz(self) -> int:
        """The rate at which the samples come."""

    @property
    def description(self) -> str:
        """What it is, for the log."""

    def start(self) -> None:
        """Let the sound begin."""

    def read(self, n_samples: int) -> tuple[FloatArray, bool]:
        """Wait for float32 (n_samples, n_channels), and whether some were lost before."""

    def close(self) -> None:
        """Give the device back; may hang."""


OpenStream = Callable[[StreamSettings, bool], Stream]


class _PortAudioStream:
    """PortAudio's stream, in our words and errors."""

    def __init__(self, sounddevice: Any, device: InputDevice, settings: StreamSettings) -> None:  # noqa: ANN401
        self._error = sounddevice.PortAudioError
        self._n_channels = channels_to_open(device, settings.channel, settings.channels)
        rate_hz = settings.sample_rate_hz or device.default_sample_rate_hz
        self.description = f"{_quoted(device.name)} channels={self._n_channels}"
        try:
            self._stream = sounddevice.RawInputStream(
                device=device.index,
                samplerate=rate_hz,
                channels=self._n_channels,
                dtype="float32",
                blocksize=round(settings.block_s * rate_hz),
                latency=settings.block_s * BLOCKS_OF_LATENCY,
            )
        except self._error as error:
            code = error.args[1] if len(error.args) > 1 else None
            if code in {_INVALID_SAMPLE_RATE, _INVALID_CHANNEL_COUNT}:
                raise DeviceError(
                    f"input device {self.description} refuses {rate_hz} Hz ({error}), "
                    f"expected a rate and a number of channels that it has, such as {device.default_sample_rate_hz} Hz"
                ) from error
            raise DeviceAwayError(f"input device {self.description} cannot be opened ({error})") from error
        self.sample_rate_hz = round(self._stream.samplerate)

    def start(self) -> None:
        try:
            self._stream.start()
        except self._error as error:
            raise DeviceAwayError(f"input device {self.description} cannot be started ({error})") from error

    def read(self, n_samples: int) -> tuple[FloatArray, bool]:
        try:
            data, overflowed = self._stream.read(n_samples)
        except self._error as error:
            raise DeviceAwayError(f"input device {self.description} has gone ({error})") from error
        return np.frombuffer(data, np.float32).reshape(-1, self._n_channels), overflowed

    def close(self) -> None:
        self._stream.close()


def open_portaudio(settings: StreamSettings, refresh: bool) -> Stream:
    """Open a device; it does not run yet.

    Args:
        settings: what to open.
        refresh: look again which devices there are. PortAudio knows only those that were there when it was
            initialised, so it is initialised anew; no stream may be open.

    Raises:
        DeviceAwayError: it is not there, busy or out of order; waiting may help.
        DeviceError: PortAudio is not installed, or the device is ambiguous or cannot do what is asked.
    """
    sounddevice = _sounddevice()
    if refresh:
        try:
            with contextlib.suppress(sounddevice.PortAudioError):  # not initialised, after a failure just below
                sounddevice._terminate()
            sounddevice._initialize()
        except sounddevice.PortAudioError as error:
            raise DeviceAwayError(f"PortAudio cannot be initialised ({error})") from error
    return _PortAudioStream(sounddevice, find_device(settings.device, list_devices()), settings)


def channels_to_open(device: InputDevice, channel: Channel, channels: int | None) -> int:
    """How many channels to open: as configured, else up to the chosen one, else for a mix at most `MIX_CHANNELS`.

    Raises:
        DeviceError: the device has fewer.
    """
    mixed = min(device.n_channels, MIX_CHANNELS)
    wanted = channels or (mixed if channel == "mix" else channel)
    needed = wanted if channel == "mix" else max(wanted, channel)
    if needed > device.n_channels:
        raise DeviceError(
            f"input device {_quoted(device.name)} has {device.n_channels} channels, "
            f"expected {needed} for audio.channel = {_quoted(channel)}"
        )
    return needed


def _sounddevice() -> Any:  # noqa: ANN401  it has no types
    try:
        import sounddevice
    except OSError as error:
        raise DeviceError(f"PortAudio cannot be loaded ({error}), expected apt-get install libportaudio2") from error
    return sounddevice


# What arrives, and when


class ArrivalClock:
    """Holds the samples that arrive against the monotonic clock: how many are missing, and when each was heard.

    The *lateness* of a read is the time since the start minus the duration of all samples up to its end, the lost ones
    included. A sample cannot arrive before it was heard, so the least lateness of the last seconds is the best estimate
    of no delay: the *baseline*. It falls at once, and rises to the least of `FOLLOW_S` when they are over, so it
    follows a sound card whose rate is hundreds of ppm off (3 ms in `FOLLOW_S` at 300 ppm).

    Samples are missing when reads are later than the baseline by more than `LOST_S` and stay so for `PERSIST_S`.
    Jitter does not stay: sound servers deliver in bursts of 0.2 s, but within a second some read comes in time. Nor
    does backlog: a reader that was held up for seconds finds its samples waiting, and a read that does not wait proves
    nothing. So a loss that nobody reported is known about a second after it happened, and is told with the block that
    comes then. A shorter one cannot be told from jitter; it shifts the times for at most `FOLLOW_S`. Where a gap is
    known (PortAudio's flag, a reopened device), it is told at once: what is missing by the clock, at least 1.

    Args:
        sample_rate_hz: nominal rate of the samples.
    """

    LOST_S = 0.3
    PERSIST_S = 1.0
    FOLLOW_S = 10.0

    def __init__(self, sample_rate_hz: int) -> None:
        self._rate_hz = sample_rate_hz
        self._next_sample = 0
        self._baseline_s = float("inf")
        self._follow_since_s = 0.0
        self._follow_least_s = float("inf")
        self._late_since_s: float | None = None
        self._late_least_s = float("inf")

    def arrived(self, n_samples: int, *, asked_s: float, came_s: float, gap: bool = False) -> int:
        """Take note of a read.

        Args:
            n_samples: how many it gave.
            asked_s: monotonic time when it was asked for.
            came_s: monotonic time when it came.
            gap: some are known to be lost before it.

        Returns:
            How many samples were lost before it.
        """
        self._next_sample += n_samples
        lateness_s = came_s - self._next_sample / self._rate_hz
        if lateness_s < self._baseline_s:
            self._set_baseline(lateness_s, came_s)
        excess_s = lateness_s - self._baseline_s
        lost = 0
        if gap:
            lost = max(1, round(excess_s * self._rate_hz))
        elif excess_s > self.LOST_S:
            waited = came_s - asked_s > 0.25 * n_samples / self._rate_hz
            lost = self._lost_silently(lateness_s, came_s, waited=waited)
        else:
            self._late_since_s = None
            self._follow(lateness_s, came_s)
        if lost:
            self._next_sample += lost
            self._late_since_s = None
        return lost

    @property
    def anchor(self) -> tuple[int, float]:
        """The index of the sample after the newest one, and the monotonic time at which it was heard."""
        return self._next_sample, self._baseline_s + self._next_sample / self._rate_hz

    def _set_baseline(self, lateness_s: float, now_s: float) -> None:
        self._baseline_s = lateness_s
        self._follow_since_s = now_s
        self._follow_least_s = float("inf")

    def _follow(self, lateness_s: float, now_s: float) -> None:
        self._follow_least_s = min(self._follow_least_s, lateness_s)
        if now_s - self._follow_since_s >= self.FOLLOW_S:
            self._set_baseline(self._follow_least_s, now_s)

    def _lost_silently(self, lateness_s: float, now_s: float, *, waited: bool) -> int:
        if self._late_since_s is None:
            self._late_since_s, self._late_least_s = now_s, lateness_s
        self._late_least_s = min(self._late_least_s, lateness_s)
        if not waited or now_s - self._late_since_s < self.PERSIST_S:
            return 0
        return round((self._late_least_s - self._baseline_s) * self._rate_hz)


@dataclass(frozen=True, slots=True)
class CaptureSnapshot:
    """How capture is doing, at one moment.

    Attributes:
        state: `new`, `waiting` for the device, `open` but not begun, `running`, `stopped`, `hung` in PortAudio, or
            `failed` by a bug. From the last three there is no way back, and the ring is closed.
        captured_samples: samples that came.
        lost_samples: samples that the device or the sound server lost, or that passed while the device was away.
        invalid_samples: NaN and infinite samples, replaced by 0.
        overflows: how often PortAudio said that some were lost.
        reopened: how often a lost device was found again.
    """

    state: State
    captured_samples: int
    lost_samples: int
    invalid_samples: int
    overflows: int
    reopened: int


class Microphone:
    """A microphone that is opened when it is there, and again when it comes back.

    First `open`, which tells the rate; then `start` with a ring; in the end `stop`. Not to be used twice.

    Args:
        device: see `find_device`.
        sample_rate_hz: None for the device's default.
        channel: counted from 1, or the mean of all that are opened.
        channels: how many to open; None for as many as `channel` needs, for a mix at most two (a microphone array with
            more should say so).
        block_s: how much is read at a time.
        open_stream: how a device is opened; called with the settings, and whether to look for new devices.
        monotonic: seconds on a clock that never steps.
        backoff_s: the first and the longest wait between two attempts to open; each is twice the one before.
        open_deadline_s: how long opening may take before PortAudio counts as hung.
        close_deadline_s: the same for closing.
    """

    def __init__(
        self,
        *,
        device: str | int | None = None,
        sample_rate_hz: int | None = None,
        channel: Channel = "mix",
        channels: int | None = None,
        block_s: float = BLOCK_S,
        open_stream: OpenStream = open_portaudio,
        monotonic: Callable[[], float] = time.monotonic,
        backoff_s: tuple[float, float] = BACKOFF_S,
        open_deadline_s: float = OPEN_DEADLINE_S,
        close_deadline_s: float = CLOSE_DEADLINE_S,
    ) -> None:
        self._settings = StreamSettings(device, sample_rate_hz, channel, channels, block_s)
        self._open_stream = open_stream
        self._monotonic = monotonic
        self._backoff_s = backoff_s
        self._open_deadline_s = open_deadline_s
        self._close_deadline_s = close_deadline_s
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._ring: Ring | None = None
        self._stream: Stream | None = None
        self._state: State = "new"
        self._attempts = 0
        self._n_captured = self._n_lost = self._n_invalid = self._n_overflows = self._n_reopened = 0
        self._anchor: tuple[int, float] | None = None

    def open(self) -> int | None:
        """Open the device; while it is not there, wait for it.

        Returns:
            The sample rate in Hz, which stays; None if `stop` was called meanwhile.

        Raises:
            DeviceError: waiting would not help: no PortAudio, an ambiguous name, a refused rate, too few channels.
            DeviceHungError: PortAudio hangs.
        """
        self._stream = self._opened(self._delays(), patient=False)
        if self._stream is None or self._stopping.is_set():
            self._close()
            self._state = "stopped"
            return None
        self._settings = replace(self._settings, sample_rate_hz=self._stream.sample_rate_hz)
        return self._stream.sample_rate_hz

    def start(self, ring: Ring) -> None:
        """Let the sound flow into the ring, on the thread `capture`, until `stop`; in the end the ring is closed."""
        if self._stream is None or self._thread is not None:
            raise RuntimeError(f"the microphone is {self._state}, expected open")
        self._ring = ring
        self._thread = threading.Thread(target=self._run, args=(ring,), name="capture", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End capture and give the device back; returns in time even if PortAudio hangs: then `hung` is true.

        Not from a signal handler, which may have interrupted the wait that this would end.
        """
        self._stopping.set()
        if self._thread is not None:
            # Time for a read that is under way, and for closing, which has its own deadline.
            self._thread.join(self._settings.block_s + 2 * self._close_deadline_s)
            if self._thread.is_alive():
                self._hang()
        else:
            with contextlib.suppress(DeviceHungError):
                self._close()
                self._state = "stopped"

    @property
    def hung(self) -> bool:
        """Whether PortAudio hangs: leave by `os._exit(74)`, or the process never ends."""
        return self._state == "hung"

    def snapshot(self) -> CaptureSnapshot:
        """The counters now."""
        return CaptureSnapshot(
            state=self._state,
            captured_samples=self._n_captured,
            lost_samples=self._n_lost,
            invalid_samples=self._n_invalid,
            overflows=self._n_overflows,
            reopened=self._n_reopened,
        )

    def anchor(self) -> tuple[int, float] | None:
        """A sample index and the monotonic time at which it was heard: sample n was heard (n - index) / rate later.

        It is kept up to date with every block, and follows gaps and the drift of the sound card; so take it anew rather
        than keep it for hours. None before the first block.
        """
        return self._anchor

    def _run(self, ring: Ring) -> None:
        clock = ArrivalClock(self._settings.sample_rate_hz or 0)
        delays = self._delays()
        try:
            while self._stream is not None:
                n_before = self._n_captured
                self._read_while_there(self._stream, ring, clock)
                self._close()
                if self._n_captured > n_before:
                    delays = self._delays()
                # Not at once: a device that opens and then fails would keep us busy with nothing else.
                if self._stopping.is_set() or self._stopping.wait(next(delays)):
                    break
                self._stream = self._opened(delays, patient=True)
                self._n_reopened += self._stream is not None
            self._state = "stopped"
        except DeviceHungError as error:
            log.critical("capture.hung reason=%s", error)
        except BaseException:
            self._state = "failed"
            raise
        finally:
            ring.close()

    def _read_while_there(self, stream: Stream, ring: Ring, clock: ArrivalClock) -> None:
        n_samples = round(self._settings.block_s * stream.sample_rate_hz)
        gap = self._n_captured > 0
        try:
            stream.start()
            self._state = "running"
            while not self._stopping.is_set():
                asked_s = self._monotonic()
                samples, overflowed = stream.read(n_samples)
                came_s = self._monotonic()
                lost = clock.arrived(len(samples), asked_s=asked_s, came_s=came_s, gap=gap or overflowed)
                gap = False
                ring.write(self._mono(samples), lost)
                self._n_captured += len(samples)
                self._n_lost += lost
                self._n_overflows += overflowed
                self._anchor = clock.anchor
        except DeviceAwayError as error:
            self._state = "waiting"
            log.warning("capture.lost reason=%s", error)

    def _mono(self, samples: FloatArray) -> FloatArray:
        channel = self._settings.channel
        chosen = samples if channel == "mix" else samples[:, channel - 1 : channel]
        valid = np.isfinite(chosen)
        if not valid.all():
            self._n_invalid += int(valid.size - np.count_nonzero(valid))
            chosen = np.where(valid, chosen, np.float32(0.0))
        mono: FloatArray = chosen[:, 0] if chosen.shape[1] == 1 else chosen.mean(axis=1, dtype=np.float32)
        return mono  # (n,)

    def _delays(self) -> Iterator[float]:
        delay_s, longest_s = self._backoff_s
        while True:
            yield min(delay_s, longest_s)
            delay_s *= 2

    def _opened(self, delays: Iterator[float], *, patient: bool) -> Stream | None:
        """Open the device, waiting for it; None when told to stop. Once it has run, every trouble is waited out."""
        while not self._stopping.is_set():
            refresh = self._attempts > 0
            self._attempts += 1
            try:
                stream = self._in_time(
                    partial(self._open_stream, self._settings, refresh), "open", self._open_deadline_s
                )
                self._check_rate(stream)
            except DeviceHungError:
                raise
            except DeviceError as error:
                if not patient and not isinstance(error, DeviceAwayError):
                    raise
                self._state = "waiting"
                delay_s = next(delays)
                log.warning("capture.waiting retry_s=%g reason=%s", delay_s, error)
                self._stopping.wait(delay_s)
            else:
                log.info("capture.opened device=%s rate_hz=%d", stream.description, stream.sample_rate_hz)
                self._state = "open"
                return stream
        return None

    def _check_rate(self, stream: Stream) -> None:
        expected_hz = self._settings.sample_rate_hz
        if expected_hz is not None and stream.sample_rate_hz != expected_hz:
            self._in_time(stream.close, "close", self._close_deadline_s)
            raise DeviceError(
                f"input device {stream.description} runs at {stream.sample_rate_hz} Hz, expected {expected_hz} Hz"
            )

    def _close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            self._in_time(stream.close, "close", self._close_deadline_s)

    def _in_time(self, call: Callable[[], T], verb: str, deadline_s: float) -> T:
        """Call PortAudio on a thread of its own: if it hangs, that thread is left behind."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001  a thread's edge; raised again by result()
                future.set_exception(error)

        threading.Thread(target=run, name=f"capture-{verb}", daemon=True).start()
        try:
            return future.result(deadline_s)
        except TimeoutError as error:
            self._hang()
            raise DeviceHungError(f"the sound system does not {verb} within {deadline_s:g} s") from error

    def _hang(self) -> None:
        self._state = "hung"
        if self._ring is not None:
            self._ring.close()
