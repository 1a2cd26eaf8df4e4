"""Raw PCM: bytes that say nothing about themselves, as samples."""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from agent.values import FloatArray

PcmFormat = Literal["u8", "s16le", "s24le", "s32le", "f32le"]  # unsigned, signed or float; bits; little-endian
PCM_FORMATS: tuple[str, ...] = get_args(PcmFormat)
SAMPLE_BYTES = {"u8": 1, "s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4}


def decode(data: bytes, format: str) -> FloatArray:
    """Whole samples as numbers.

    Args:
        data: samples of a format of `PCM_FORMATS`, one after the other.
        format: which one.

    Returns:
        float32 (n,), in [-1, 1]; of `f32le`, what is there.
    """
    return _DECODERS[format](data)


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


_DECODERS: dict[str, Callable[[bytes], FloatArray]] = {
    "u8": _decode_u8,
    "s16le": _decode_s16le,
    "s24le": _decode_s24le,
    "s32le": _decode_s32le,
    "f32le": _decode_f32le,
}
