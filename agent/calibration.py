"""How loud full scale is: a sound calibrator on the microphone, heard for some seconds.

In: an open microphone, and how loud the calibrator is. Out: a `Calibration`, or why what was heard is no calibrator.
Called on the main thread by `cli`; nothing is kept of the sound.

Source: IEC 60942:2017, sound calibrators: 94 or 114 dB at 1 kHz, where A-weighting changes nothing.
"""

import math
from dataclasses import dataclass

import numpy as np

from agent.condition import FULL_SCALE
from agent.errors import CalibrationError, DeviceError
from agent.level import FAINTEST, REFERENCE_HZ, SLICES_PER_S, LevelMeter, dbfs, statistics
from agent.mono import Channel, to_mono
from agent.portaudio import Stream
from agent.values import AudioBlock, FloatArray

SETTLE_S = 1.0  # a microphone that was just switched on, and filters that were just started
READ_S = 0.2
STEADY_DB = 0.5  # a calibrator that sits well moves by less than a tenth of that
PURE_SHARE = 0.9  # of the power, within a tenth of the frequency
FAINTEST_DBFS = -70.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a calibrator's tone says of a microphone.

    Attributes:
        tone_dbfs: how loud the tone is, relative to a sine at full scale.
        full_scale_db: what sound pressure level full scale is.
        moved_db: how far the level moved meanwhile.
    """

    tone_dbfs: float
    full_scale_db: float
    moved_db: float


def listen(stream: Stream, channel: Channel, seconds: float) -> FloatArray:
    """Hear a microphone for so long, and `SETTLE_S` before.

    Args:
        stream: open, not started; the caller closes it.
        channel: counted from 1, or the mean of all.
        seconds: how long.

    Returns:
        float32 (n,).

    Raises:
        DeviceError: the microphone has gone, or sound was lost on the way.
    """
    blocks: list[FloatArray] = []
    stream.start()
    for _ in range(math.ceil((SETTLE_S + seconds) / READ_S)):
        samples, overflowed = stream.read(round(READ_S * stream.sample_rate_hz))
        if overflowed and blocks:
            raise DeviceError(f"input device {stream.description}: sound was lost, expected all of it; try again")
        blocks.append(to_mono(samples, channel)[0])
    return np.concatenate(blocks)


def calibrate(samples: FloatArray, sample_rate_hz: int, *, calibrator_db: float) -> Calibration:
    """What full scale is, if this is a calibrator.

    Args:
        samples: float32 (n,); the first `SETTLE_S` do not count.
        sample_rate_hz: of the samples.
        calibrator_db: the sound pressure level of its tone.

    Raises:
        CalibrationError: it clips, is too faint, moves, or is no tone of 1 kHz.
    """
    settled = samples[round(SETTLE_S * sample_rate_hz) :]
    readings = LevelMeter(sample_rate_hz).push(AudioBlock(samples, 0))[round(SETTLE_S * SLICES_PER_S) :]
    levels_dbfs = [dbfs(reading.mean_square) for reading in readings]
    tone_dbfs = dbfs(statistics(readings).mean_square)
    share = _share_of_tone(settled, sample_rate_hz)
    moved_db = max(levels_dbfs) - min(levels_dbfs)
    if float(np.abs(settled).max()) >= FULL_SCALE:
        raise CalibrationError("the tone clips, expected it below full scale: turn the gain down")
    if tone_dbfs < FAINTEST_DBFS:
        problem = f"the microphone hears {tone_dbfs:.1f} dB of full scale, expected {FAINTEST_DBFS:g} or more"
        raise CalibrationError(f"{problem}: put the calibrator on it, or turn the gain up")
    if share < PURE_SHARE:
        problem = (
            f"{100 * share:.0f} % of what is heard is a tone of {REFERENCE_HZ:g} Hz, expected {100 * PURE_SHARE:g} %"
        )
        raise CalibrationError(f"{problem} or more: put the calibrator on the microphone")
    if moved_db > STEADY_DB:
        problem = f"the tone moves by {moved_db:.1f} dB, expected {STEADY_DB:g} or less"
        raise CalibrationError(f"{problem}: leave the calibrator where it is")
    return Calibration(tone_dbfs, calibrator_db - tone_dbfs, moved_db)


def _share_of_tone(samples: FloatArray, sample_rate_hz: int) -> float:
    """How much of the power lies within a tenth of 1 kHz; the mean is none."""
    powers = np.abs(np.fft.rfft((samples - samples.mean()) * np.hanning(len(samples)))) ** 2
    frequencies_hz = np.fft.rfftfreq(len(samples), 1.0 / sample_rate_hz)
    is_tone = np.abs(frequencies_hz - REFERENCE_HZ) <= REFERENCE_HZ / 10
    return float(powers[is_tone].sum() / max(powers.sum(), FAINTEST))
