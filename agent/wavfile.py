"""Recordings, block by block: the owner of libsndfile.

In: a file in any format that libsndfile reads (WAV, FLAC, Ogg, MP3 and more), or raw PCM from a stream; any rate, any
number of channels, hours long. Out: `AudioBlock`s, mono. Called by `replay`, `classify` and `model_export`, on
their own thread. Also here: which files a folder holds, and what a file's name says about its start.
"""

import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path, PurePath
from typing import BinaryIO, Literal, Self, get_args

import numpy as np
import soundfile

from agent.archive import RemoteFile, RemoteStream
from agent.errors import RecordingError
from agent.mono import Channel, to_mono
from agent.values import AudioBlock, FloatArray

Source = Path | RemoteFile
PcmFormat = Literal["u8", "s16le", "s24le", "s32le", "f32le"]

PCM_FORMATS: tuple[str, ...] = get_args(PcmFormat)
_BLOCK_VALUES = 1 << 19  # of all channels, 2 MiB
_UNCOMPRESSED = {".wav", ".wave", ".bwf", ".rf64", ".w64", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"}
SUFFIXES = frozenset(_UNCOMPRESSED | {".flac", ".ogg", ".oga", ".opus", ".mp3"})
# Outside this range it is a broken header, not sound: ultrasound recorders stop at 500 kHz.
SAMPLE_RATE_MIN_HZ, SAMPLE_RATE_MAX_HZ = 1_000, 1_000_000


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
        n_invalid_samples: NaN and infinite samples so far, replaced by 0.
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
        _check_rate(name, sample_rate_hz)
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
        recording = Recording(
            str(source),
            sample_rate_hz=file.samplerate,
            n_channels=file.channels,
            n_samples=file.frames if known else None,
            channel=channel,
            read=read,
            close=opened.close,
            seekable=known and file.seekable() and file.subtype.startswith(_EXACT_SUBTYPES),
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
            damage = _damage(str(path), file, size)
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
    damage = _damage(str(source), stream, size)
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
    frame_bytes = channels * _PCM_BYTES[format]

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
        return _PCM_DECODERS[format](whole).reshape(-1, channels)  # (n or fewer, channels)

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


def _check_rate(name: str, sample_rate_hz: int) -> None:
    if not SAMPLE_RATE_MIN_HZ <= sample_rate_hz <= SAMPLE_RATE_MAX_HZ:
        raise RecordingError(
            f"{name}: sample rate {sample_rate_hz} Hz, expected {SAMPLE_RATE_MIN_HZ} to {SAMPLE_RATE_MAX_HZ} Hz"
        )


def _decode_u8(data: bytes) -> FloatArray:
    return (np.frombuffer(data, np.uint8).astype(np.float32) - 128.0) / np.float32(1 << 7)


def _decode_s16le(data: bytes) -> FloatArray:
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(1 << 15)


def _decode_s24le(data: bytes) -> FloatArray:
    padded = np.zeros((len(data) // 3, 4), np.uint8)
    padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)  # the upper three bytes of 32 bits
    return _decode_s32le(padded.tobytes())


def _decode_s32le(data: bytes) -> FloatArray:
    return np.frombuffer(data, "<i4").astype(np.float32) / np.float32(1 << 31)


def _decode_f32le(data: bytes) -> FloatArray:
    return np.frombuffer(data, "<f4").astype(np.float32)


_PCM_BYTES = {"u8": 1, "s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4}
_PCM_DECODERS: dict[str, Callable[[bytes], FloatArray]] = {
    "u8": _decode_u8,
    "s16le": _decode_s16le,
    "s24le": _decode_s24le,
    "s32le": _decode_s32le,
    "f32le": _decode_f32le,
}


# Others are coded with what came before: Vorbis, MP3, ADPCM. FLAC's subtype is that of its samples.
_EXACT_SUBTYPES = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")
_FRAMES_UNKNOWN = 1 << 62  # libsndfile's SF_COUNT_MAX, less some


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", None) or str(error)
    return str(text).rstrip(".")


# Programs that write a WAV into a pipe cannot know its length; they promise about as much as the field can hold
# (ffmpeg 2^32 - 1, arecord and sox about 2^31).
_LENGTH_UNKNOWN = 0x7FFF_0000
_OGG_PAGE_BYTES = 65_307  # the longest page, RFC 3533
_OGG_END_OF_STREAM = 4


def _damage(name: str, file: BinaryIO | RemoteStream, size: int) -> str | None:
    """What a file's frame says is wrong with it, where libsndfile would pass over it in silence or call it odd names.

    Raises:
        RecordingError: a WAV header with an impossible sample rate.
        OSError: the file cannot be read.
    """
    head = file.read(12)
    if head[:4] in {b"RIFF", b"RIFX", b"RF64"} and head[8:] == b"WAVE":
        return _wav_damage(name, file, size, ">" if head[:4] == b"RIFX" else "<")
    if head[:4] == b"OggS":
        file.seek(max(0, size - 2 * _OGG_PAGE_BYTES))
        tail = file.read()
        if not _ends_ogg(tail[max(0, tail.rfind(b"OggS")) :]):
            return "truncated, the Ogg page that ends the stream is not whole"
    return None


def _ends_ogg(last_page: bytes) -> bool:
    """Whether a page is whole and says that it is the last. Source: RFC 3533, section 6."""
    if len(last_page) < 27:
        return False
    lengths = last_page[27 : 27 + last_page[26]]
    whole = len(last_page) >= 27 + last_page[26] + sum(lengths)
    return whole and bool(last_page[5] & _OGG_END_OF_STREAM)


def _wav_damage(path: str, file: BinaryIO | RemoteStream, size: int, order: str) -> str | None:
    """Hold the chunks of a WAV file against its size.

    Source: Microsoft, Multimedia Programming Interface 1.0 (RIFF); EBU Tech 3306 (RF64).
    """
    long_data_size = 0
    while len(chunk := file.read(8)) == 8:
        name, n = struct.unpack(f"{order}4sI", chunk)
        if name == b"data":
            if n == 0xFFFF_FFFF and long_data_size:
                n = long_data_size
            elif n >= _LENGTH_UNKNOWN and file.tell() + n > size:
                return None
            there = size - file.tell()
            if n > there:
                return f"truncated, its header promises {n} bytes of samples, and {there} are there"
            return f"its header says 0 bytes of samples, but {there} bytes follow" if n == 0 < there else None
        if b"\0" in name:  # not a chunk any more
            return None
        content = file.read(min(n, 64))
        if name == b"fmt " and len(content) >= 8:
            _check_rate(path, struct.unpack(f"{order}I", content[4:8])[0])
        if name == b"ds64" and len(content) >= 16:
            long_data_size = struct.unpack("<Q", content[8:16])[0]
        file.seek(n + n % 2 - len(content), os.SEEK_CUR)
    return None


def walk(paths: Iterable[Path]) -> tuple[list[Path], list[RecordingError]]:
    """Find the recordings: a file that is named is taken as it is, a folder is searched with all its folders.

    Returns:
        The files, sorted, each once; and what could not be found or listed. Neither stops the other. Hidden files
        and files with a suffix that is not one of `SUFFIXES` are passed over in folders.
    """
    files: set[Path] = set()
    problems: list[RecordingError] = []
    for path in paths:
        if path.is_dir():
            found = set(_recordings_below(path, problems))
            if not found:
                problems.append(RecordingError(f"{path}: no recordings in this folder, expected {_known_suffixes()}"))
            files |= found
        elif path.exists():
            files.add(path)
        else:
            problems.append(RecordingError(f"{path}: no such file or folder"))
    return sorted(files), problems


def _recordings_below(folder: Path, problems: list[RecordingError]) -> Iterator[Path]:
    def note(error: OSError) -> None:
        problems.append(RecordingError(f"{error.filename}: folder cannot be listed ({error.strerror})"))

    for here, _, names in os.walk(folder, onerror=note):
        for name in names:
            path = Path(here, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                yield path


def _known_suffixes() -> str:
    return " ".join(f"*{suffix}" for suffix in sorted(SUFFIXES))


_CALENDAR = re.compile(
    r"""(?<!\d)
    (\d{4})(?P<dash>-?)(\d{2})(?P=dash)(\d{2})          # 2026-01-01 or 20260101
    (?P<between>[-T_\ ])
    (\d{2})(?P<colon>[-:.]?)(\d{2})(?P=colon)(\d{2})    # 12-00-00, 12:00:00, 12.00.00 or 120000
    (?!\d)
    (?:[.,](?P<fraction>\d{1,6})(?=Z|[+-]\d\d|$))?
    (?P<zone>Z|[+-]\d{2}:?\d{2}(?!\d))?
    """,
    re.VERBOSE,
)
_DIGITS = re.compile(r"(?<![0-9A-Za-z])(\d{14}|\d{13}|\d{10})(?=[ZT]?(?![0-9A-Za-z]))")
# Outside these years a row of digits is some other number.
_FIRST_YEAR, _LAST_YEAR = 2000, 2099


def start_time_from_name(path: PurePath) -> datetime | None:
    """When a recording starts, if its name says so; UTC.

    Known forms, alone or with other words around them: `20260101_120000` (AudioMoth, Song Meter), `20260101120000`,
    `20260101T120000Z`, `20260101T120000+0100`, `2026-01-01T12-00-00Z`, `2026-01-01_12-00-00`, and Unix time in
    seconds (10 digits) or milliseconds (13 digits). A name without a zone is taken as UTC, as AudioMoth means it.

    Returns:
        The start with zone UTC; None if there is none, or none that exists in the years 2000 to 2099.
    """
    stem = path.stem if path.suffix.lower() in SUFFIXES else path.name
    starts = [_from_calendar(match) for match in _CALENDAR.finditer(stem)]
    starts += [_from_digits(match[1]) for match in _DIGITS.finditer(stem)]
    return next((start for start in starts if start is not None), None)


def _from_calendar(match: re.Match[str]) -> datetime | None:
    year, month, day, hour, minute, second = (int(match[i]) for i in (1, 3, 4, 6, 8, 9))
    microsecond = int((match["fraction"] or "0").ljust(6, "0"))
    zone = _zone(match["zone"], iso=match["between"] == "T")
    if not _FIRST_YEAR <= year <= _LAST_YEAR:
        return None
    try:
        return datetime(year, month, day, hour, minute, second, microsecond, zone).astimezone(UTC)
    except ValueError:  # a 30th of February
        return None


def _zone(text: str | None, *, iso: bool) -> timezone:
    if text is None or text == "Z":
        return UTC
    hours, minutes = int(text[1:3]), int(text[-2:])
    # 20260101_120000-0001 is the first part of a recording, not a zone; zones are quarter hours.
    if hours > 14 or minutes % 15 or (text[0] == "-" and not iso):
        return UTC
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)


def _from_digits(digits: str) -> datetime | None:
    if len(digits) == 14:
        match = _CALENDAR.match(f"{digits[:8]}_{digits[8:]}")
        return _from_calendar(match) if match else None
    seconds, milliseconds = (int(digits), 0) if len(digits) == 10 else divmod(int(digits), 1000)
    start = datetime.fromtimestamp(seconds, UTC) + timedelta(milliseconds=milliseconds)
    return start if _FIRST_YEAR <= start.year <= _LAST_YEAR else None
