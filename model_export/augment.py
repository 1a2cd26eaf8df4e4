"""Training windows: a cut of a clip, changed as streets, distances and microphones change it.

In: log-mel frames with deep levels. Out: batches of windows at the card's levels, with soft labels. Everything works
on decibels relative to full scale: mixing adds power, gain adds decibels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from agent.values import FloatArray
from model_export.features import FRONT_END, at_card_level

NEPERS_PER_DB = np.float32(np.log(10.0) / 10.0)  # of power


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
    """

    frames: Sequence[FloatArray]
    targets: NDArray[np.int64]
    n_labels: int
    background: int


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

    def epoch(self, batch_size: int) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Every clip once, in random order.

        Yields:
            float32 (batch, n_frames, n_mels, 1) and float32 (batch, n_labels).
        """
        order = self._rng.permutation(len(self._clips.frames))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            drawn = [self.window(int(index)) for index in order[start : start + batch_size]]
            windows = np.stack([window for window, _ in drawn])[..., None]
            yield windows, np.stack([label for _, label in drawn])

    def window(self, index: int) -> tuple[FloatArray, FloatArray]:
        """One augmented window of a clip and its soft label."""
        rng, how = self._rng, self._how
        window = self._cut(index)
        label = self._one_hot(index)
        if rng.random() < how.mixup_probability:
            other = int(rng.integers(len(self._clips.frames)))
            snr_db = rng.uniform(-how.mixup_snr_db, how.mixup_snr_db)
            window = self._at_snr(window, self._cut(other), snr_db)
            share = np.float32(1.0 / (1.0 + 10.0 ** (-snr_db / 10.0)))
            label = share * label + (1 - share) * self._one_hot(other)
        elif (
            self._clips.targets[index] != self._clips.background
            and len(self._backgrounds)
            and rng.random() < how.background_probability
        ):
            ground = self._cut(int(rng.choice(self._backgrounds)))
            window = self._at_snr(window, ground, rng.uniform(*how.background_snr_db))
        window = window + np.float32(rng.uniform(*how.gain_db)) + self._microphone_colour()
        return self._masked(at_card_level(window)), label

    def _one_hot(self, index: int) -> FloatArray:
        label = np.zeros(self._clips.n_labels, np.float32)
        label[self._clips.targets[index]] = 1.0
        return label

    def _at_snr(self, window: FloatArray, other: FloatArray, snr_db: float) -> FloatArray:
        return add_power(window, other + np.float32(level_db(window) - level_db(other) - snr_db))

    def _cut(self, index: int) -> FloatArray:
        """A window's length of a clip at a random place, perhaps stretched in time and shifted in pitch."""
        rng, how, frames = self._rng, self._how, self._clips.frames[index]
        n_frames, n_mels = FRONT_END.n_frames, FRONT_END.n_mels
        warped = rng.random() < how.warp_probability
        stretch = rng.uniform(1 - how.time_warp, 1 + how.time_warp) if warped else 1.0
        stretch = min(stretch, (len(frames) - 1) / (n_frames - 1))
        span = stretch * (n_frames - 1)
        start = self._louder_of_two(frames, span)
        if not warped:
            return frames[round(start) : round(start) + n_frames]
        shift = rng.uniform(-how.pitch_warp_bands, how.pitch_warp_bands)
        at_frames = start + stretch * np.arange(n_frames)
        at_bands = np.arange(n_mels) + shift
        grid = np.meshgrid(at_frames, at_bands, indexing="ij")
        cut: FloatArray = ndimage.map_coordinates(frames, grid, order=1, mode="nearest").astype(np.float32)
        return cut

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
