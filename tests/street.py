"""A street of real recordings, and a loudspeaker that plays it to the microphone in real time, as a pytest plugin.

The clips are such that the model has no doubt about them, wherever its windows fall: that moves onsets and offsets by
0.05 s at most. What it makes of doubtful ones is the business of other tests. They lie in silence, so that each is an
event of its own.
"""

import os
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from tests.broker import DEADLINE_S
from tests.sound_server import SAMPLE_RATE_HZ

SIREN = "fold3/184623-8-0-0.ogg"
CLIPS = (
    SIREN,
    "fold1/164312-3-1-0.ogg",
    "fold1/77246-6-0-0.ogg",
    "fold1/103074-7-0-2.ogg",
    "fold1/159738-8-0-1.ogg",
)
BEFORE_S, BETWEEN_S, AFTER_S = 1.0, 2.5, 2.0  # between: more than a pause within an event (`merge_gap_s`)
PEAK = 0.5
CHUNK = SAMPLE_RATE_HZ // 100  # samples
CHUNK_S = CHUNK / SAMPLE_RATE_HZ

Pcm = NDArray[np.int16]


@dataclass(frozen=True)
class Sound:
    """A sound as samples and as a file: one channel, 16 bit, 48 kHz.

    Attributes:
        samples: int16 (n,).
        file: a WAV file of the same.
    """

    samples: Pcm
    file: Path

    @property
    def duration_s(self) -> float:
        return len(self.samples) / SAMPLE_RATE_HZ


def silence(seconds: float) -> Pcm:
    return np.zeros(round(seconds * SAMPLE_RATE_HZ), np.int16)


def clip(recordings: Path, name: str) -> Pcm:
    """A clip of UrbanSound8K, at one level."""
    samples, rate_hz = soundfile.read(recordings / "urbansound8k" / name, dtype="float32")
    resampled = soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ)
    loud: Pcm = np.round(resampled * (PEAK * 32767 / np.abs(resampled).max())).astype(np.int16)
    return loud


def _written(samples: Pcm, file: Path) -> Sound:
    soundfile.write(file, samples, SAMPLE_RATE_HZ)
    return Sound(samples, file)


@pytest.fixture(scope="session")
def street(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """A siren, a dog, a shot, a jackhammer and another siren, with silence around each; 30.9 s."""
    parts = [silence(BEFORE_S)]
    for name in CLIPS:
        parts += [clip(recordings, name), silence(BETWEEN_S)]
    return _written(np.concatenate([*parts, silence(AFTER_S)]), tmp_path_factory.mktemp("street") / "street.wav")


@pytest.fixture(scope="session")
def corner(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """A dog and a shot: the shortest street with more than one event; 9.3 s."""
    parts = [silence(BEFORE_S)]
    for name in CLIPS[1:3]:
        parts += [clip(recordings, name), silence(BETWEEN_S)]
    return _written(np.concatenate(parts), tmp_path_factory.mktemp("corner") / "corner.wav")


@pytest.fixture(scope="session")
def wail(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """The shortest sound that is surely an event: 4 s, and still there at the end."""
    samples = np.concatenate([silence(0.5), clip(recordings, SIREN)])[: 4 * SAMPLE_RATE_HZ]
    return _written(samples, tmp_path_factory.mktemp("wail") / "wail.wav")


@pytest.fixture(scope="session")
def siren(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """A siren that goes on for 12 s and is still there at the end: an event that stays open."""
    samples = np.concatenate([silence(0.5), *[clip(recordings, SIREN)] * 3])
    return _written(samples, tmp_path_factory.mktemp("siren") / "siren.wav")


class Loudspeaker:
    """What the microphone hears: silence, and what it is told to play, written into a FIFO in real time.

    Args:
        fifo: of a sound server; what it does not read at once is dropped.

    Attributes:
        pace: of real time, at which sound comes; a test may change it.
    """

    def __init__(self, fifo: Path) -> None:
        self._pipe = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        self._sounds: SimpleQueue[tuple[Pcm, Future[float]]] = SimpleQueue()
        self._done = threading.Event()
        self.pace = 1.0
        self._thread = threading.Thread(target=self._write, name="loudspeaker")
        self._thread.start()

    def play(self, samples: Pcm) -> float:
        """Play a sound; give the moment at which its first sample is heard, in seconds since 1970."""
        begun: Future[float] = Future()
        self._sounds.put((samples, begun))
        return begun.result(DEADLINE_S) + time.time() - time.monotonic()

    def close(self) -> None:
        """Play no more, not even silence."""
        self._done.set()
        self._thread.join(DEADLINE_S)
        os.close(self._pipe)

    def _write(self) -> None:
        due_s = time.monotonic()
        playing = np.empty(0, np.int16)
        while True:
            if len(playing) == 0:
                with suppress(Empty):
                    playing, begun = self._sounds.get_nowait()
                    begun.set_result(due_s)
            chunk, playing = playing[:CHUNK], playing[CHUNK:]
            # A chunk is there when its last sample is, as with a microphone.
            due_s += CHUNK_S / self.pace
            if self._done.wait(max(0.0, due_s - time.monotonic())):
                return
            with suppress(BlockingIOError, BrokenPipeError):  # the server is slow, or has gone
                os.write(self._pipe, np.pad(chunk, (0, CHUNK - len(chunk))).tobytes())
