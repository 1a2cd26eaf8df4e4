"""PortAudio's door: which microphones there are, and how one is opened and read.

In: what the configuration calls a device. Out: an open `Stream` of blocking reads, in our words and errors. Called by
`capture`, which puts opening and closing under a deadline, and by `urbansound devices`. sounddevice is imported when it
is needed: without libportaudio the rest of the agent works.

There is no callback: cffi would need memory that is writable and executable, which the hardened systemd unit forbids.
"""

import contextlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from agent.errors import DeviceAwayError, DeviceError
from agent.mono import Channel
from agent.values import FloatArray

BLOCKS_OF_LATENCY = 3  # PortAudio's own "high" is 35 ms on ALSA, less than a busy Python may let the reader wait
MIX_CHANNELS = 2  # ALSA's plugins claim to have 32

_INVALID_SAMPLE_RATE, _INVALID_CHANNEL_COUNT = -9997, -9998  # portaudio.h


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
    """All input devices, as PortAudio saw them when it was initialised; but none whose name is not UTF-8.

    Raises:
        DeviceAwayError: PortAudio cannot be initialised now.
        DeviceError: PortAudio is not installed.
    """
    sounddevice = _sounddevice()
    default_index = sounddevice.default.device[0]
    found = []
    for host_api in sounddevice.query_hostapis():
        for index in host_api["devices"]:
            try:
                device = sounddevice.query_devices(index)
            except UnicodeDecodeError:  # of `sounddevice`; it must not cost the others
                continue
            if device["max_input_channels"] > 0:
                found.append(
                    InputDevice(
                        index=index,
                        name=device["name"],
                        host_api=host_api["name"],
                        n_channels=device["max_input_channels"],
                        default_sample_rate_hz=round(device["default_samplerate"]),
                        is_default=index == default_index,
                    )
                )
    return tuple(sorted(found, key=lambda device: device.index))


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


def shortest_name(device: InputDevice, devices: Sequence[InputDevice]) -> str | int:
    """What finds this device and no other one: the shortest of its names, or its index."""
    # Without the ALSA name: cards are numbered in the order in which they are found.
    # A name that means no device, or several, is passed over for the next longer one.
    for name in (re.sub(r" \(hw:\d+,\d+\)$", "", device.name), device.name, _full_name(device)):
        with contextlib.suppress(DeviceError):
            if find_device(name, devices) is device:
                return name
    return device.index


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
    return json.dumps(name, ensure_ascii=False)


def _listed(devices: Sequence[InputDevice]) -> str:
    return ", ".join(f"{device.index} {_quoted(device.name)}" for device in devices) or "(there is none)"


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

    def __init__(self, sounddevice: Any, device: InputDevice, settings: StreamSettings) -> None:  # noqa: ANN401  it has no types
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
    except Exception as error:  # PortAudioError, whose class comes with the module that did not load
        raise DeviceAwayError(f"PortAudio cannot be initialised ({error})") from error
    return sounddevice
