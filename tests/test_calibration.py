"""Promises of `agent.calibration`: a calibrator on the microphone says what full scale is; anything else does not."""

import signal
from collections.abc import Callable
from contextlib import closing
from functools import partial

import numpy as np
import pytest

from agent.calibration import SETTLE_S, calibrate, listen
from agent.config import AudioConfig
from agent.errors import CalibrationError, DeviceError
from agent.values import FloatArray
from tests.commands import CommandFactory
from tests.sound_server import SAMPLE_RATE_HZ, SoundServer
from tests.street import Loudspeaker

RATE_HZ = 48_000


def tone(amplitude: float, *, frequency_hz: float = 1_000.0, duration_s: float = 6.0) -> FloatArray:
    samples: FloatArray = amplitude * np.sin(
        2 * np.pi * frequency_hz * np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    ).astype(np.float32)
    return samples


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("calibrator_db", [94.0, 114.0])
def test_full_scale_follows_from_the_tone(rate_hz: int, calibrator_db: float) -> None:
    """A sine at a tenth of full scale is 20 dB below it, whatever hiss is with it, whatever was before."""
    n = 6 * rate_hz
    noise = np.random.default_rng(5).normal(0.0, 1e-3, n)
    samples = (0.1 * np.sin(2 * np.pi * 1_002.0 * np.arange(n) / rate_hz) + noise).astype(np.float32)
    samples[: round(0.5 * rate_hz)] = 1.0  # it was switched on, and put on the microphone

    found = calibrate(samples, rate_hz, calibrator_db=calibrator_db)

    assert found.tone_dbfs == pytest.approx(-20.0, abs=0.05)
    assert found.full_scale_db == pytest.approx(calibrator_db + 20.0, abs=0.05)
    assert found.moved_db < 0.1


def _moving() -> FloatArray:
    return tone(0.1) * np.linspace(1.0, 1.2, 6 * RATE_HZ, dtype=np.float32)


def _noise() -> FloatArray:
    samples: FloatArray = np.random.default_rng(5).normal(0.0, 0.05, 6 * RATE_HZ).astype(np.float32)
    return samples


@pytest.mark.parametrize(
    ("heard", "problem"),
    [
        (lambda: tone(1.0), "the tone clips, expected it below full scale"),
        (lambda: tone(0.0), "the microphone hears -200.0 dB of full scale, expected -70 or more"),
        (lambda: tone(1e-4), "the microphone hears -80.0 dB of full scale, expected -70 or more"),
        (_noise, "1 % of what is heard is a tone of 1000 Hz, expected 90 % or more"),
        (lambda: tone(0.1, frequency_hz=250.0), "0 % of what is heard is a tone of 1000 Hz"),
        (_moving, "the tone moves by 1.3 dB, expected 0.5 or less"),
    ],
    ids=["clips", "nothing", "faint", "noise", "another tone", "moves"],
)
def test_what_is_no_calibrator_is_refused(heard: Callable[[], FloatArray], problem: str) -> None:
    """A number that is wrong for years is worse than none; the message says what to do."""
    with pytest.raises(CalibrationError) as caught:
        calibrate(heard(), RATE_HZ, calibrator_db=94.0)

    assert str(caught.value).startswith(problem)
    assert ": " in str(caught.value)


class Played:
    """A microphone that hears what it is given, and may lose some on the way."""

    description = '"test"'
    sample_rate_hz = RATE_HZ

    def __init__(self, samples: FloatArray, *, loses_at_s: float | None = None) -> None:
        self.samples, self.at, self.loses_at_s = samples, 0, loses_at_s

    def start(self) -> None:
        """It runs already."""

    def read(self, n_samples: int) -> tuple[FloatArray, bool]:
        lost = self.loses_at_s is not None and self.at >= self.loses_at_s * RATE_HZ
        self.at += n_samples
        return self.samples[self.at - n_samples : self.at, None], lost

    def close(self) -> None:
        """Nothing to give back."""


@pytest.mark.parametrize(("amplitude", "calibrator_db"), [(4e-4, 130.0), (0.99, 60.0)])
def test_what_is_found_can_be_configured(amplitude: float, calibrator_db: float) -> None:
    """Also of the faintest tone of the loudest calibrator, and the other way round."""
    found = calibrate(tone(amplitude), RATE_HZ, calibrator_db=calibrator_db)

    assert AudioConfig(full_scale_db=round(found.full_scale_db, 1)).full_scale_db is not None


def test_as_much_is_heard_as_was_asked_for() -> None:
    """And the time to settle before."""
    samples = listen(Played(tone(0.1)), 1, 3.0)

    assert len(samples) == round((SETTLE_S + 3.0) * RATE_HZ)


def test_lost_sound_is_no_calibration() -> None:
    """It would be too quiet."""
    with pytest.raises(DeviceError, match="sound was lost, expected all of it; try again"):
        listen(Played(tone(0.1), loses_at_s=1.0), "mix", 3.0)


def test_a_calibrator_on_a_real_microphone(breakable_sound_server: SoundServer, urbansound: CommandFactory) -> None:
    """Through PulseAudio and PortAudio: silence is refused; what is printed of a tone stands in a configuration."""
    times_s = np.arange(20 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    played = (0.1 * 32_768 * np.sin(2 * np.pi * 1_000.0 * times_s)).astype(np.int16)
    audio = {"DEVICE": "fifomic", "CHANNEL": "1", "SAMPLE_RATE_HZ": str(SAMPLE_RATE_HZ)}
    configured = {f"URBANSOUND_AUDIO__{key}": value for key, value in audio.items()}
    calibrate_it = partial(
        urbansound,
        *("calibrate", "--seconds", "3", "--level", "114"),
        environment=breakable_sound_server.environment,
        more=configured,
    )
    with closing(Loudspeaker(breakable_sound_server.load_fifo())) as loudspeaker:
        of_silence = calibrate_it()
        assert of_silence.wait() == 69
        loudspeaker.play(played)
        of_tone = calibrate_it()
        assert of_tone.wait() == 0, of_tone.stderr

    assert "of full scale, expected -70 or more: put the calibrator on it" in of_silence.stderr
    assert of_tone.lines == ["[audio]\n", "full_scale_db = 134.0\n"]
    assert "the tone is -20.0" in of_tone.stderr


def test_ctrl_c_ends_it(sound_server: SoundServer, urbansound: CommandFactory) -> None:
    """The microphone is given back, and nothing is printed."""
    more = {"URBANSOUND_AUDIO__DEVICE": sound_server.device}
    command = urbansound("calibrate", "--seconds", "60", environment=sound_server.environment, more=more)
    command.wait_for_log("hearing ")

    command.signal(signal.SIGINT)

    assert command.wait() == 130
    assert (command.lines, len(command.log)) == ([], 1)


def test_a_microphone_that_is_not_there_cannot_be_calibrated(
    sound_server: SoundServer, urbansound: CommandFactory
) -> None:
    """It is not waited for: somebody stands there, and can plug it in."""
    more = {"URBANSOUND_AUDIO__DEVICE": "no such microphone"}
    command = urbansound("calibrate", environment=sound_server.environment, more=more)

    assert command.wait() == 69
    assert 'no input device "no such microphone", expected one of:' in command.stderr


@pytest.mark.parametrize("level", ["0", "-94", "131", "nan", "loud"])
def test_a_level_that_no_calibrator_has_is_refused(urbansound: CommandFactory, level: str) -> None:
    """The message says what may be."""
    command = urbansound("calibrate", f"--level={level}")

    assert command.wait() == 2
    assert f"--level: {level}: expected decibels from 60 to 130" in command.stderr
