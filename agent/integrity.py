"""Whether a recording is whole, and can be one: what its container says, where libsndfile passes over it in silence.

In: an open file or stream. Out: what is wrong with it, one line for a person.
"""

import os
import struct
from typing import BinaryIO

from agent.archive import RemoteStream
from agent.errors import RecordingError

# Outside this range it is a broken header, not sound: ultrasound recorders stop at 500 kHz.
SAMPLE_RATE_MIN_HZ, SAMPLE_RATE_MAX_HZ = 1_000, 1_000_000
# Programs that write a WAV into a pipe cannot know its length; they promise about as much as the field can hold
# (ffmpeg 2^32 - 1, arecord and sox about 2^31).
_LENGTHS_UNKNOWN = (range(0x7FFF_0000, 0x8000_0101), range(0xFFFF_0000, 0x1_0000_0000))
_JUNK_BYTES = 512  # a sector; less at the end of a file is left behind by programs, such as the 128 bytes of ID3v1
_OGG_PAGE_BYTES = 65_307  # the longest page, RFC 3533
_OGG_END_OF_STREAM = 4


def check_rate(name: str, sample_rate_hz: int) -> None:
    """Refuse a rate that no recording has.

    Raises:
        RecordingError: the rate is impossible.
    """
    if not SAMPLE_RATE_MIN_HZ <= sample_rate_hz <= SAMPLE_RATE_MAX_HZ:
        raise RecordingError(
            f"{name}: sample rate {sample_rate_hz} Hz, expected {SAMPLE_RATE_MIN_HZ} to {SAMPLE_RATE_MAX_HZ} Hz"
        )


def damage_of(name: str, file: BinaryIO | RemoteStream, size: int) -> str | None:
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
            elif any(n in lengths for lengths in _LENGTHS_UNKNOWN) and file.tell() + n > size:
                return None
            there = size - file.tell()
            if n > there:
                return f"truncated, its header promises {n} bytes of samples, and {there} are there"
            return _damage_after_samples(file, n, size, order)
        if b"\0" in name:  # not a chunk any more
            return None
        content = file.read(min(n, 64))
        if name == b"fmt " and len(content) >= 8:
            check_rate(path, struct.unpack(f"{order}I", content[4:8])[0])
        if name == b"ds64" and len(content) >= 16:
            long_data_size = struct.unpack("<Q", content[8:16])[0]
        file.seek(n + n % 2 - len(content), os.SEEK_CUR)
    return None


def _damage_after_samples(file: BinaryIO | RemoteStream, n: int, size: int, order: str) -> str | None:
    """Hold what follows so many bytes of samples against what may follow them."""
    end = file.tell() + n
    promise = f"its header says {n} bytes of samples, but {size - end} bytes follow"
    if n == 0 < size - end:
        return promise
    if size - end < _JUNK_BYTES:
        return None
    # Some programs leave out the byte that makes a length even, and some write it though the length is even.
    if any(_are_chunks(file, end + pad, size, order) for pad in (0, 1)):
        return None
    return f"{promise} that are no chunks"


def _are_chunks(file: BinaryIO | RemoteStream, begin: int, size: int, order: str) -> bool:
    """Whether a file goes on with chunks to its end, but for a few bytes, or for zeros, which no sound is."""
    file.seek(begin)
    while len(head := file.read(8)) == 8:
        name, n = struct.unpack(f"{order}4sI", head)
        if not (name.isascii() and name.decode().isprintable()) or begin + 8 + n > size:
            break
        begin += 8 + n + n % 2
        file.seek(begin)
    file.seek(begin)
    rest = file.read(_JUNK_BYTES)
    return len(rest) < _JUNK_BYTES or not any(rest)
