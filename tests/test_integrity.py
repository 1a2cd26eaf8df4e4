"""Promises of `agent.integrity`: a recording that is not whole is noticed, one that is whole is not accused."""

import io

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
    whole = bytearray(content("wav"))
    whole[WAV_HEADER_BYTES - 4 : WAV_HEADER_BYTES] = bytes(4)

    assert damage(bytes(whole)) == f"its header says 0 bytes of samples, but {2 * len(SOUND)} bytes follow"


@pytest.mark.parametrize("promised", [0xFFFF_FFFF, 0x7FFF_FFFF])
def test_a_length_that_nobody_knew_is_no_loss(promised: int) -> None:
    """What programs promise that write a WAV into a pipe."""
    whole = bytearray(content("wav"))
    whole[WAV_HEADER_BYTES - 4 : WAV_HEADER_BYTES] = promised.to_bytes(4, "little")

    assert damage(bytes(whole)) is None


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
