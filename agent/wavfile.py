"""Recordings, block by block: the owner of libsndfile.

In: a file in any format that libsndfile reads (WAV, FLAC, Ogg, MP3 and more), or raw PCM from a stream; any rate, any
number of channels, hours long. Out: `AudioBlock`s, mono. Called by `replay`, `classify` and `model_export`, on
their own thread.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import soundfile

from agent.archive import RemoteFile, RemoteStream
from agent.errors import RecordingError
from agent.integrity import check_rate, damage_of
from agent.mono import Channel, to_mono
from agent.pcm import PCM_FORMATS, SAMPLE_BYTES, PcmFormat, decode
from agent.values import AudioBlock, FloatArray

Source = Path | RemoteFile

_BLOCK_VALUES = 1 << 19  # of all channels, 2 MiB
# Others are coded with what came before: Vorbis, MP3, ADPCM. FLAC's subtype is that of its samples.
_EXACT_SUBTYPES = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")
_FRAMES_UNKNOWN = 1 << 62  # libsndfile's SF_COUNT_MAX, less some


class Recording:
    """A recording that is read in blocks; made by `open_recording` and `raw_pcm`.

    What spoils a part of a recording does not stop it: all good samples come, then `problem` says what is wrong.

    Attributes:
        name: what messages call it.
        sample_rate_hz: as the file says.
        n_channels: as the file says.
        n_samples: length of one channel as far as known; None for a stream.
        seekable: whether it gives the same samples when it is opened somewhere in its middle.
        problem: what is wrong with the recording, one line for a person; None if nothing is. Final after `blocks`.
        n_invalid_samples: NaN, infinite and other samples so far that cannot be sound, replaced by 0.
    """

    def __init__(
        self,
        name: str,
        *,
        sample_rate_hz: int,
        n_channels: int,
        n_samples: int | None,
        channel: Channel,
        read: Callable[[int], FloatArray],
        close: Callable[[], None],
        seekable: bool = False,
        first_sample: int = 0,
    ) -> None:
        check_rate(name, sample_rate_hz)
        if channel != "mix" and not 1 <= channel <= n_channels:
            raise RecordingError(f"{name}: channel {channel} wanted, expected 1 to {n_channels} or mix")
        self.name = name
        self.sample_rate_hz = sample_rate_hz
        self.n_channels = n_channels
        self.n_samples = n_samples
        self.seekable = seekable
        self.problem: str | None = None
        self.n_invalid_samples = 0
        self._channel = channel
        self._read = read
        self._close = close
        self._n_read = first_sample

    @property
    def duration_s(self) -> float | None:
        """Length in seconds as far as known; None for a stream."""
        return None if self.n_samples is None else self.n_samples / self.sample_rate_hz

    @property
    def n_missing(self) -> int:
        """Samples that its header promises and that could not be read, once it has been read to its end."""
        return 0 if self.problem is None or self.n_samples is None else max(0, self.n_samples - self._n_read)

    @property
    def long_block(self) -> int:
        """How long a block may be that costs little; a stream may be live, and its blocks are of one second."""
        values_per_s = self.sample_rate_hz * self.n_channels
        longer = (s for s in (10, 5, 2) if self.n_samples is not None and s * values_per_s <= _BLOCK_VALUES)
        return next(longer, 1) * self.sample_rate_hz

    def blocks(self, block_samples: int | None = None) -> Iterator[AudioBlock]:
        """Read on to the end, from where it was read before.

        Args:
            block_samples: length of a block, of which the last may be shorter; one second by default.

        Yields:
            Blocks without a gap, from where it was opened. The mix is the mean of all channels. Recordings in floating
            point may go beyond [-1, 1]; they stay as they are.
        """
        n = block_samples or self.sample_rate_hz
        error: Exception | None = None
        while error is None:
            samples, error = self._read_at_most(n)  # (n or fewer, n_channels)
            if len(samples) == 0:
                break
            mono, n_invalid = to_mono(samples, self._channel)
            self.n_invalid_samples += n_invalid
            mono.flags.writeable = False
            self._n_read += len(mono)
            yield AudioBlock(mono, self._n_read - len(mono))
        if error is not None:
            self._note(f"cannot be read beyond {self._n_read / self.sample_rate_hz:.3f} s ({error})")
        elif self._n_read == 0:
            self._note("holds no samples")
        elif self.n_samples is not None and self._n_read < self.n_samples:
            self._note(f"truncated, its header promises {self.n_samples} samples, and {self._n_read} are there")

    def _read_at_most(self, n: int) -> tuple[FloatArray, Exception | None]:
        """Read a block second by second: of one that cannot be read to its end, libsndfile gives nothing."""
        parts: list[FloatArray] = []
        while n > 0:
            try:
                part = self._read(min(n, self.sample_rate_hz))  # (n or fewer, n_channels)
            except (soundfile.LibsndfileError, OSError) as error:
                return np.concatenate([*parts, np.empty((0, self.n_channels), np.float32)]), error
            parts.append(part)
            n -= len(part)
            if len(part) < self.sample_rate_hz:
                break
        return (parts[0] if len(parts) == 1 else np.concatenate(parts)), None

    def close(self) -> None:
        """Give the file back. A stream that somebody else opened stays open."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.close()

    def _note(self, problem: str) -> None:
        self.problem = self.problem or f"{self.name}: {problem}"


def open_recording(source: Source, channel: Channel = "mix", *, first_sample: int = 0) -> Recording:
    """Open a recording that libsndfile can read.

    A file that was cut short (a recorder that lost power) opens, and its `problem` says so. Of WAV and Ogg that is
    known here, of FLAC and MP3 at the end of `blocks`; of other formats libsndfile does not tell.

    Args:
        source: a file, or an address.
        channel: counted from 1, or the mean of all.
        first_sample: where its blocks begin; other than 0 only for what is `seekable`.

    Raises:
        RecordingError: no such file, not a file, empty, not audio, no samples, an impossible rate, no such channel.
    """
    opened, stream = ExitStack(), None
    try:
        if isinstance(source, RemoteFile):
            stream = source.open()
            opened.callback(stream.close)
            file, damage = _sound_in(stream, source)
        else:
            file, damage = _sound_of(source)
        opened.callback(file.close)
        _check_length(str(source), file.frames, damage)
        if first_sample:
            file.seek(first_sample)

        def read(n: int) -> FloatArray:
            try:
                samples: FloatArray = file.read(n, dtype="float32", always_2d=True)
            finally:
                if stream is not None and stream.error is not None:
                    raise stream.error
            return samples

        known = file.frames < _FRAMES_UNKNOWN
        if not known:  # after each read soundfile would seek, which libsndfile cannot do at an end that it did not know
            file.seekable = lambda: False
        recording = Recording(
            str(source),
            sample_rate_hz=file.samplerate,
            n_channels=file.channels,
            n_samples=file.frames if known else None,
            channel=channel,
            read=read,
            close=opened.close,
            seekable=file.seekable() and file.subtype.startswith(_EXACT_SUBTYPES),
            first_sample=first_sample,
        )
    except (RecordingError, soundfile.LibsndfileError) as error:
        opened.close()
        if isinstance(error, RecordingError):
            raise
        raise RecordingError(f"{source}: cannot be read from sample {first_sample} on ({_reason(error)})") from error
    if damage:
        recording._note(damage)
    return recording


def _sound_of(path: Path) -> tuple[soundfile.SoundFile, str | None]:
    """A file for libsndfile, and what its frame says is wrong with it."""
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise RecordingError(f"{path}: is a folder, expected a recording")
        if not path.is_file():
            raise RecordingError(f"{path}: is not a regular file, expected a recording; streams come by standard input")
        if size == 0:
            raise RecordingError(f"{path}: is empty (0 bytes), expected a recording")
        with path.open("rb") as file:
            damage = damage_of(str(path), file, size)
    except OSError as error:
        raise RecordingError(f"{path}: cannot be opened ({error.strerror})") from error
    return _by_libsndfile(os.fsencode(path), str(path)), damage


def _sound_in(stream: RemoteStream, source: RemoteFile) -> tuple[soundfile.SoundFile, str | None]:
    """The same of an address."""
    size = stream.seek(0, os.SEEK_END)
    if stream.error is not None:
        raise RecordingError(f"{source}: cannot be read ({stream.error})")
    if size == 0:
        raise RecordingError(f"{source}: is empty (0 bytes), expected a recording")
    stream.seek(0)
    damage = damage_of(str(source), stream, size)
    stream.seek(0)
    return _by_libsndfile(stream, str(source)), damage


def _by_libsndfile(file: bytes | RemoteStream, name: str) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(file)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: *.raw, which says nothing about itself
        raise RecordingError(f"{name}: not a recording that libsndfile can read ({_reason(error)})") from error


def write_recording(path: Path, samples: FloatArray, sample_rate_hz: int) -> None:
    """Write a sound that was made by a formula, 16 bit, in the format of the file's suffix. No other ever is written.

    Args:
        path: the file.
        samples: float32 (n,), in [-1, 1].
        sample_rate_hz: its rate.
    """
    soundfile.write(path, samples, sample_rate_hz, subtype="PCM_16")


def raw_pcm(
    stream: BinaryIO,
    *,
    sample_rate_hz: int,
    channels: int,
    format: PcmFormat,
    channel: Channel = "mix",
    name: str = "standard input",
) -> Recording:
    """Read raw PCM from a stream, for example standard input; the same interface as a file.

    Args:
        stream: interleaved samples, to its end.
        sample_rate_hz: what the bytes cannot say.
        channels: number of channels in the stream.
        format: one of `PCM_FORMATS`: unsigned or signed integer or float, bits, byte order.
        channel: counted from 1, or the mean of all.
        name: what messages call it.

    Raises:
        RecordingError: an impossible rate, number of channels or channel, or an unknown format.
    """
    if format not in PCM_FORMATS:
        raise RecordingError(f"{name}: format {format}, expected one of {', '.join(PCM_FORMATS)}")
    if channels < 1:
        raise RecordingError(f"{name}: {channels} channels, expected at least 1")
    frame_bytes = channels * SAMPLE_BYTES[format]

    def read(n: int) -> FloatArray:
        data = bytearray()
        while len(data) < n * frame_bytes:
            part = stream.read(n * frame_bytes - len(data))
            if not part:
                break
            data += part
        odd = len(data) % frame_bytes
        if odd:
            recording._note(f"{odd} bytes at the end are no whole sample, expected a multiple of {frame_bytes} bytes")
        whole = bytes(data[: len(data) - odd])
        return decode(whole, format).reshape(-1, channels)  # (n or fewer, channels)

    recording = Recording(
        name,
        sample_rate_hz=sample_rate_hz,
        n_channels=channels,
        n_samples=None,
        channel=channel,
        read=read,
        close=lambda: None,
    )
    return recording


def _check_length(name: str, n_samples: int, damage: str | None) -> None:
    if n_samples == 0:
        raise RecordingError(f"{name}: holds no samples" + (f"; {damage}" if damage else ""))


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", None) or str(error)
    return str(text).rstrip(".")
