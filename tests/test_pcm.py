"""Promises of `agent.pcm`: bytes as samples."""

import numpy as np
import pytest

from agent.pcm import PCM_FORMATS, SAMPLE_BYTES, decode

QUARTER = {
    "u8": bytes([128, 160, 96, 0]),
    "s16le": b"\x00\x00\x00\x20\x00\xe0\x00\x80",
    "s24le": b"\x00\x00\x00\x00\x00\x20\x00\x00\xe0\x00\x00\x80",
    "s32le": b"\x00\x00\x00\x00\x00\x00\x00\x20\x00\x00\x00\xe0\x00\x00\x00\x80",
    "f32le": np.array([0.0, 0.25, -0.25, -1.0], "<f4").tobytes(),
}


@pytest.mark.parametrize("form", PCM_FORMATS)
def test_full_scale_is_one(form: str) -> None:
    """Nothing, a quarter of full scale, its negative, and the lowest value, in each format."""
    samples = decode(QUARTER[form], form)

    assert samples.dtype == np.float32
    np.testing.assert_array_equal(samples, [0.0, 0.25, -0.25, -1.0])
    assert len(QUARTER[form]) == 4 * SAMPLE_BYTES[form]


def test_nothing_is_no_samples() -> None:
    """The end of a stream is not an error."""
    assert [len(decode(b"", form)) for form in PCM_FORMATS] == [0] * len(PCM_FORMATS)
