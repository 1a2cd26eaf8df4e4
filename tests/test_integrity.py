"""Promises of `agent.integrity`: a recording that is not whole is noticed, one that is whole is not accused."""

import io
import struct

import numpy as np
import pytest
import soundfile

from agent.errors import RecordingError
from agent.integrity import check_rate, damage_of

SOUND = np.random.default_rng(3).normal(0.0, 0.1, 40_000).astype(np.float32)
WAV_HEADER_BYTES = 44
FORMS = {
    "wav": {"format": "WAV", "subtype": "PCM_16"},
    "rifx": {"format": "WAV", "subtype": "PCM_16", "endian": "BIG"},
    "rf64": {"format": "RF64", "subtype": "PCM_16"},
    "ogg": {"format": "OGG"},
    "flac": {"format": "FLAC"},
}


def content(form: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, SOUND, 16_000, **FORMS[form])
    return file.getvalue()


def damage(data: bytes) -> str | None:
    return damage_of("x", io.BytesIO(data), len(data))


@pytest.mark.parametrize("form", FORMS)
def test_what_is_whole_is_whole(form: str) -> None:
    """Nothing is said of a recording as it was written."""
    assert damage(content(form)) is None


@pytest.mark.parametrize("form", ["wav", "rifx", "rf64"])
def test_a_header_that_promises_more_is_noticed(form: str) -> None:
    """How much was promised, and how much is there."""
    whole = content(form)

    said = damage(whole[:-1000])

    assert (
        said
        == f"truncated, its header promises {2 * len(SOUND)} bytes of samples, and {2 * len(SOUND) - 1000} are there"
    )


@pytest.mark.parametrize("kept", [0.5, 0.999])
def test_an_ogg_stream_without_its_end_is_noticed(kept: float) -> None:
    """The last page says that it is the last, and is whole."""
    whole = content("ogg")

    assert damage(whole[: int(kept * len(whole))]) == "truncated, the Ogg page that ends the stream is not whole"


def test_a_header_that_was_never_finished_is_noticed() -> None:
    """A recorder that lost power before it wrote how long the recording is."""
    assert damage(promising(0)) == f"its header says 0 bytes of samples, but {2 * len(SOUND)} bytes follow"


def promising(n: int) -> bytes:
    """A WAV file whose header says that it holds so many bytes of samples."""
    return content("wav")[: WAV_HEADER_BYTES - 4] + n.to_bytes(4, "little") + content("wav")[WAV_HEADER_BYTES:]


def chunk(name: bytes, n: int) -> bytes:
    return struct.pack("<4sI", name, n) + b"x" * n + bytes(n % 2)


@pytest.mark.parametrize("after", [b"", chunk(b"LIST", 26)])
def test_a_header_that_promises_less_is_noticed(after: bytes) -> None:
    """A recorder that lost power long after it last wrote how long the recording is."""
    n_after = 2 * len(SOUND) - 10_000 + len(after)

    assert damage(promising(10_000) + after) == (
        f"its header says 10000 bytes of samples, but {n_after} bytes follow that are no chunks"
    )


@pytest.mark.parametrize(
    "after",
    [
        chunk(b"LIST", 26) + chunk(b"bext", 601) + chunk(b"iXML", 5_000),
        chunk(b"LIST", 601)[:-1],
        chunk(b"id3 ", 2_000) + b"TAG" + bytes(100) + b"\xff" * 25,
        b"\r\n\x1a",
        bytes(30_000),
        chunk(b"LIST", 26) + bytes(30_000),
    ],
    ids=["chunks", "no pad", "a tag", "junk", "zeros", "chunk and zeros"],
)
@pytest.mark.parametrize("pad", [b"", b"\0"], ids=["", "pad"])
@pytest.mark.parametrize("n_samples", [40_000, 40_001])
def test_what_may_follow_samples_is_no_loss(n_samples: int, pad: bytes, after: bytes) -> None:
    """Chunks, with or without the byte that makes their length even; what taggers and recorders leave at the end."""
    file = io.BytesIO()
    soundfile.write(file, np.resize(SOUND, n_samples), 16_000, format="WAV", subtype="PCM_U8")
    samples_end = WAV_HEADER_BYTES + n_samples

    assert damage(file.getvalue()[:samples_end] + pad + after) is None


@pytest.mark.parametrize("promised", [0x7FFE_0000, 0x8001_0000, 3_000_000_000, 0xFFFE_0000])
def test_a_long_recording_that_was_cut_is_noticed(promised: int) -> None:
    """Of two gigabytes and more, too: what is promised is no length that nobody knew."""
    said = f"truncated, its header promises {promised} bytes of samples, and {2 * len(SOUND)} are there"

    assert damage(promising(promised)) == said


@pytest.mark.parametrize("promised", [0xFFFF_FFFF, 0xFFFF_FFDB, 0x7FFF_F000, 0x7FFF_FFFF, 0x8000_0024])
def test_a_length_that_nobody_knew_is_no_loss(promised: int) -> None:
    """What programs promise that write a WAV into a pipe."""
    assert damage(promising(promised)) is None


@pytest.mark.parametrize("rate_hz", [0, 999, 1_000_001])
def test_a_rate_that_no_recording_has_is_refused(rate_hz: int) -> None:
    """In a header, which libsndfile would call by odd names, and wherever else it is said."""
    whole = bytearray(content("wav"))
    whole[24:28] = rate_hz.to_bytes(4, "little")

    refusal = f"^x: sample rate {rate_hz} Hz, expected 1000 to 1000000 Hz$"
    with pytest.raises(RecordingError, match=refusal):
        damage(bytes(whole))
    with pytest.raises(RecordingError, match=refusal):
        check_rate("x", rate_hz)


def test_what_recorders_and_ultrasound_have_is_taken() -> None:
    """The bounds themselves are rates."""
    check_rate("x", 1_000)
    check_rate("x", 1_000_000)
