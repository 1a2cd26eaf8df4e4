"""Training windows: a cut of a clip, changed as streets, distances and microphones change it.

In: log-mel frames with deep levels, and what a teacher says of the clip as it was. Out: batches of windows at the
card's levels, with soft labels. Everything works on decibels relative to full scale: mixing adds power, gain adds
decibels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from agent.values import FloatArray
from model_export.features import FRONT_END, at_card_level

NEPERS_PER_DB = np.float32(np.log(10.0) / 10.0)  # of power
FRAMES_PER_LESSON = 8  # 0.1 s


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How much is changed. Probabilities in [0, 1], levels in decibels.

    Source: mixup, Zhang et al., ICLR 2018; SpecAugment, Park et al., Interspeech 2019.
    """

    gain_db: tuple[float, float] = (-35.0, 6.0)
    mixup_probability: float = 0.5
    mixup_snr_db: float = 12.0
    background_probability: float = 0.4
    background_snr_db: tuple[float, float] = (3.0, 30.0)
    warp_probability: float = 0.6
    time_warp: float = 0.12
    pitch_warp_bands: float = 2.5
    colour_db: float = 6.0
    masks: int = 2
    mask_frames: int = 10
    mask_bands: int = 8


@dataclass(frozen=True, slots=True)
class TrainingClips:
    """Clips in memory.

    Attributes:
        frames: float32 (n_frames, n_mels) each, deep levels.
        targets: int64 (n_clips,), index of the label.
        n_labels: how many labels there are.
        background: index of the background label.
        lessons: float32 (n_windows, d) each, what the teachers say of the clip's windows, one each `FRAMES_PER_LESSON`
            frames; d is 0 without a teacher.
    """

    frames: Sequence[FloatArray]
    targets: NDArray[np.int64]
    n_labels: int
    background: int
    lessons: Sequence[FloatArray]


class Example(NamedTuple):
    """What is trained on at once.

    Attributes:
        window: float32 (n_frames, n_mels).
        label: float32 (n_labels,), sums to 1.
        lesson: float32 (d,), what the teachers say of the sound alone.
        taught: 1.0 where the lesson holds, 0.0 where two labelled sounds are mixed and no teacher heard them so.
    """

    window: FloatArray
    label: FloatArray
    lesson: FloatArray
    taught: FloatArray | np.float32


def level_db(log_mel: FloatArray) -> float:
    """The power of a window, all bands together, in decibels; a clip's pauses count little."""
    return float(10.0 * np.log10(np.mean(np.sum(10.0 ** (log_mel / 10.0), axis=1)) + 1e-14))


def add_power(first: FloatArray, second: FloatArray) -> FloatArray:
    """Two sounds at once: their powers add."""
    total: FloatArray = np.logaddexp(first * NEPERS_PER_DB, second * NEPERS_PER_DB) / NEPERS_PER_DB
    return total


class WindowDrawer:
    """Draws augmented windows, for ever reproducible from the seed."""

    def __init__(self, clips: TrainingClips, augmentation: Augmentation, seed: int) -> None:
        self._clips = clips
        self._how = augmentation
        self._rng = np.random.default_rng(seed)
        self._backgrounds = np.flatnonzero(clips.targets == clips.background)

    @property
    def n_clips(self) -> int:
        """Clips to draw from; each is drawn once in an epoch."""
        return len(self._clips.frames)

    def epoch(self, batch_size: int) -> Iterator[Example]:
        """Every clip once, in random order.

        Yields:
            examples with a leading axis of `batch_size`; the windows are (batch, n_frames, n_mels, 1).
        """
        order = self._rng.permutation(len(self._clips.frames))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            drawn = [self.example(int(index)) for index in order[start : start + batch_size]]
            batch = Example(*(np.stack(values) for values in zip(*drawn, strict=True)))
            yield batch._replace(window=batch.window[..., None])

    def example(self, index: int) -> Example:
        """One augmented window of a clip."""
        rng, how = self._rng, self._how
        window, lesson = self._cut(index)
        label = self._one_hot(index)
        taught = np.float32(1.0)
        if rng.random() < how.mixup_probability:
            other = int(rng.integers(len(self._clips.frames)))
            snr_db = rng.uniform(-how.mixup_snr_db, how.mixup_snr_db)
            window = self._at_snr(window, self._cut(other)[0], snr_db)
            taught = np.float32(0.0)
            share = np.float32(1.0 / (1.0 + 10.0 ** (-snr_db / 10.0)))
            label = share * label + (1 - share) * self._one_hot(other)
        elif (
            self._clips.targets[index] != self._clips.background
            and len(self._backgrounds)
            and rng.random() < how.background_probability
        ):
            ground, _ = self._cut(int(rng.choice(self._backgrounds)))
            window = self._at_snr(window, ground, rng.uniform(*how.background_snr_db))
        window = window + np.float32(rng.uniform(*how.gain_db)) + self._microphone_colour()
        return Example(self._masked(at_card_level(window)), label, lesson, taught)

    def _one_hot(self, index: int) -> FloatArray:
        label = np.zeros(self._clips.n_labels, np.float32)
        label[self._clips.targets[index]] = 1.0
        return label

    def _at_snr(self, window: FloatArray, other: FloatArray, snr_db: float) -> FloatArray:
        return add_power(window, other + np.float32(level_db(window) - level_db(other) - snr_db))

    def _cut(self, index: int) -> tuple[FloatArray, FloatArray]:
        """A window's length of a clip at a random place, perhaps stretched in time and shifted in pitch; its lesson."""
        rng, how, frames = self._rng, self._how, self._clips.frames[index]
        n_frames, n_mels = FRONT_END.n_frames, FRONT_END.n_mels
        warped = rng.random() < how.warp_probability
        stretch = rng.uniform(1 - how.time_warp, 1 + how.time_warp) if warped else 1.0
        stretch = min(stretch, (len(frames) - 1) / (n_frames - 1))
        span = stretch * (n_frames - 1)
        start = self._louder_of_two(frames, span)
        lessons = self._clips.lessons[index]
        lesson = lessons[min(round(start / FRAMES_PER_LESSON), len(lessons) - 1)]
        if not warped:
            return frames[round(start) : round(start) + n_frames], lesson
        shift = rng.uniform(-how.pitch_warp_bands, how.pitch_warp_bands)
        at_frames = start + stretch * np.arange(n_frames)
        at_bands = np.arange(n_mels) + shift
        grid = np.meshgrid(at_frames, at_bands, indexing="ij")
        cut: FloatArray = ndimage.map_coordinates(frames, grid, order=1, mode="nearest").astype(np.float32)
        return cut, lesson

    def _louder_of_two(self, frames: FloatArray, span: float) -> float:
        """A clip of barks is labelled dog_bark in its pauses too: prefer, not always, where there is sound."""
        latest = len(frames) - 1 - span
        first, second = self._rng.uniform(0.0, latest, 2) if latest > 0 else (0.0, 0.0)
        loudness = [frames[int(start) : int(start + span)].max(axis=1).mean() for start in (first, second)]
        return float(first if loudness[0] >= loudness[1] else second)

    def _microphone_colour(self) -> FloatArray:
        """A smooth frequency response: a few random points, joined."""
        points = self._rng.uniform(-1.0, 1.0, 5) * self._how.colour_db * self._rng.random()
        response: FloatArray = np.interp(np.linspace(0, 4, FRONT_END.n_mels), np.arange(5), points).astype(np.float32)
        return response

    def _masked(self, window: FloatArray) -> FloatArray:
        rng, how = self._rng, self._how
        window = window.copy()
        fill = window.mean()
        for _ in range(how.masks):
            width = int(rng.integers(0, how.mask_frames + 1))
            start = int(rng.integers(0, FRONT_END.n_frames - width + 1))
            window[start : start + width] = fill
            width = int(rng.integers(0, how.mask_bands + 1))
            start = int(rng.integers(0, FRONT_END.n_mels - width + 1))
            window[:, start : start + width] = fill
        return window
