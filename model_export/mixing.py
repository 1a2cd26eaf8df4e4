"""Sounds cut, joined and brought to a level, to be laid over one another.

In and out: float32 samples, mono. Levels are A-weighted, in decibels relative to a full-scale square wave: rumble that
nobody hears would otherwise decide how loud a street is.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import fft

from agent.values import FloatArray

FRAME_S = 0.02  # in which sound and silence are told apart
AUDIBLE_DB = 30.0  # what lies so far below the loudest frame of a clip, a street's ground hides
PAUSE_S = 1.0  # a clip that is silent for longer holds two sounds
CROSSFADE_S = 0.25
EDGE_S = 0.005  # a cut without an edge clicks
SILENT_DB = -120.0


def loudness_db(samples: FloatArray, sample_rate_hz: int) -> float:
    """A-weighted level, at least `SILENT_DB`.

    Source: IEC 61672-1, the weighting as a function of frequency.
    """
    n = fft.next_fast_len(len(samples), real=True)
    spectrum = fft.rfft(samples, n)
    squared = fft.rfftfreq(n, 1.0 / sample_rate_hz) ** 2  # Hz²
    weights = 1.2588 * 12194.0**2 * squared**2 / (squared + 20.6**2) / (squared + 12194.0**2)
    weights /= np.sqrt((squared + 107.7**2) * (squared + 737.9**2))
    power = 2.0 * float(np.sum((np.abs(spectrum) * weights) ** 2)) / n / len(samples)
    return max(SILENT_DB, 10.0 * math.log10(power + 1e-30))


def scaled(samples: FloatArray, gain_db: float) -> FloatArray:
    """The samples, louder by so much."""
    louder: FloatArray = (samples * 10.0 ** (gain_db / 20.0)).astype(np.float32)
    return louder


def audible(samples: FloatArray, sample_rate_hz: int) -> FloatArray:
    """The longest stretch without a pause: no silence before it, none after it.

    Data sets pad with digital silence, and a label that begins there is wrong.
    """
    frame = round(FRAME_S * sample_rate_hz)
    padded = np.pad(samples, (0, -len(samples) % frame)).reshape(-1, frame)  # (n_frames, frame)
    power = np.mean(padded.astype(np.float64) ** 2, axis=1)  # (n_frames,)
    if power.max(initial=0.0) == 0.0:
        return samples[:0]
    sounding = np.flatnonzero(power >= power.max() * 10.0 ** (-AUDIBLE_DB / 10.0))
    stretches = np.split(sounding, 1 + np.flatnonzero(np.diff(sounding) * FRAME_S > PAUSE_S))
    longest = max(stretches, key=len)
    return samples[longest[0] * frame : (longest[-1] + 1) * frame]


def joined(pieces: Sequence[FloatArray], n_samples: int, sample_rate_hz: int) -> FloatArray:
    """Pieces one after the other, again from the first when all are used up, each faded into the next.

    Returns:
        float32 (n_samples,).
    """
    fade = min(round(CROSSFADE_S * sample_rate_hz), *(len(piece) // 2 for piece in pieces))
    rising = np.sqrt(np.arange(1, fade + 1, dtype=np.float32) / (fade + 1))  # equal power: the pieces are independent
    sound = np.zeros(n_samples, np.float32)
    start = number = 0
    while start < n_samples:
        piece = pieces[number % len(pieces)].copy()
        if number:
            piece[:fade] *= rising
        if start + len(piece) < n_samples:
            piece[len(piece) - fade :] *= rising[::-1]
        stop = min(n_samples, start + len(piece))
        sound[start:stop] += piece[: stop - start]
        start += len(piece) - fade
        number += 1
    return sound


def edged(samples: FloatArray, sample_rate_hz: int) -> FloatArray:
    """The samples with a soft first and last moment."""
    n = min(round(EDGE_S * sample_rate_hz), len(samples) // 2)
    edge = np.ones(len(samples), np.float32)
    edge[:n] = (np.arange(n) + 1.0) / (n + 1.0)
    edge[len(edge) - n :] *= edge[:n][::-1]
    return samples * edge
