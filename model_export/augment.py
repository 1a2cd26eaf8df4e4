"""Training windows: a cut of a clip, changed as streets, distances and microphones change it.

In: sounds at the front end's rate. Out: batches of windows at the card's levels with soft labels, and the sound that
each was made of, for teachers. Sounds are sped up, slowed down and mixed as waveforms. What microphones and codecs do
to them, the window alone has, and has little of it: it is not what the teacher hears.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import soxr
from numpy.typing import NDArray

from agent.frontend import LogMel
from agent.values import FloatArray
from model_export import impairments
from model_export.features import DEEP, FRONT_END, at_card_level
from model_export.networks import Likelihoods

AUDIBLE_DB, MASKED_DB = -6.0, -18.0  # relative to the other sound of a mixture
SILENCE_DB = -120.0  # below this there is nothing to set a level by
ENVELOPE_SAMPLES = 350  # the loudness of a cut is the mean of the peaks of pieces this long


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How much is changed. Probabilities in [0, 1], levels in decibels.

    Attributes:
        gain_db: change of level.
        same_label_probability: that another clip of the same label, if it is no background, sounds at the same time: a
            street sound that nobody recorded.
        mixup_probability: that another clip sounds at the same time, of whichever label.
        mixup_snr_db: at most so much louder or quieter, both.
        background_probability: that a background sounds below a clip that is none.
        background_snr_db: how far below.
        speed_probability: that the sound is played faster or slower, its pitch with it.
        speed: the slowest and the fastest, as a factor.
        overload_probability, telephone_probability: of what `impairments` does.
        colour_db: of a smooth frequency response.

    Source: mixup, Zhang et al., ICLR 2018.
    """

    gain_db: tuple[float, float] = (-35.0, 6.0)
    same_label_probability: float = 0.1
    mixup_probability: float = 0.6
    mixup_snr_db: float = 12.0
    background_probability: float = 0.4
    background_snr_db: tuple[float, float] = (3.0, 30.0)
    speed_probability: float = 0.8
    speed: tuple[float, float] = (0.67, 1.5)
    overload_probability: float = 0.03
    telephone_probability: float = 0.03
    colour_db: float = 2.0


@dataclass(frozen=True)
class TrainingClips:
    """Clips in memory.

    Attributes:
        sounds: float32 (n_samples,) each, at the front end's rate, one window long or longer.
        targets: int64 (n_clips,), index of the label.
        recordings: what each was cut from; one name for each clip.
        n_labels: how many labels there are.
        background: index of the background label.
    """

    sounds: Sequence[FloatArray]
    targets: NDArray[np.int64]
    recordings: Sequence[str]
    n_labels: int
    background: int


class Example(NamedTuple):
    """What is trained on at once.

    Attributes:
        window: float32 (n_frames, n_mels).
        label: float32 (n_labels,), in [0, 1].
        sound: float32 (window_length,), what the window was made of, before impairments, gain and colour.
    """

    window: FloatArray
    label: FloatArray
    sound: FloatArray


def level_db(sound: FloatArray) -> float:
    """The mean power of a sound, in decibels."""
    return float(10.0 * np.log10(np.mean(sound**2) + 1e-14))


class Draw(NamedTuple):
    """What one batch is drawn from; the batch depends on nothing else.

    Attributes:
        indices: int64 (batch_size,), of the clips.
        rng: what is random.
    """

    indices: NDArray[np.int64]
    rng: np.random.Generator


class WindowDrawer:
    """Draws augmented windows, for ever reproducible from the seed.

    Args:
        clips: to draw from.
        augmentation: what is done to them.
        seed: of all that is random.
        likelihoods: what a mixture's label is: with `sigmoid`, each label that can be heard in it, and background only
            where there is nothing else; with `softmax`, its labels shared by power.
    """

    def __init__(
        self, clips: TrainingClips, augmentation: Augmentation, seed: int, *, likelihoods: Likelihoods = "sigmoid"
    ) -> None:
        self._clips = clips
        self._how = augmentation
        self._likelihoods = likelihoods
        self._rng = np.random.default_rng(seed)
        self._of_label = {int(target): np.flatnonzero(clips.targets == target) for target in np.unique(clips.targets)}
        self._ends = np.cumsum(draws(clips.targets, clips.recordings))
        self._log_mel = LogMel(DEEP)

    @property
    def n_clips(self) -> int:
        """Clips to draw from, and windows in an epoch."""
        return len(self._clips.sounds)

    def epoch(self, batch_size: int) -> Iterator[Example]:
        """As many windows as there are clips, in random order; how often a clip comes, `draws` says.

        Yields:
            examples with a leading axis of `batch_size`; the windows are (batch, n_frames, n_mels, 1).
        """
        return map(self.batch, self.plan(batch_size))

    def plan(self, batch_size: int) -> Iterator[Draw]:
        """What the batches of an epoch are to be drawn from."""
        places = (np.arange(self.n_clips) + self._rng.random()) * (self._ends[-1] / self.n_clips)
        order = self._rng.permutation(np.searchsorted(self._ends[:-1], places, side="right"))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            yield Draw(order[start : start + batch_size], self._rng.spawn(1)[0])

    def batch(self, draw: Draw) -> Example:
        """The batch of a draw, as `epoch` gives it."""
        drawn = [self.example(int(index), draw.rng) for index in draw.indices]
        batch = Example(*(np.stack(values) for values in zip(*drawn, strict=True)))
        return batch._replace(window=batch.window[..., None])

    def example(self, index: int, rng: np.random.Generator | None = None) -> Example:
        """One augmented window of a clip; what is random comes from the drawer, if from nowhere else."""
        rng = rng or self._rng
        how, target = self._how, int(self._clips.targets[index])
        sound, label = self._cut(index, rng), self._one_hot(index)
        is_street_sound = target != self._clips.background
        if is_street_sound and rng.random() < how.same_label_probability:
            alike = self._cut(int(rng.choice(self._of_label[target])), rng)
            sound = _at_snr(sound, alike, rng.uniform(-how.mixup_snr_db, how.mixup_snr_db))
        if rng.random() < how.mixup_probability:
            other = int(rng.integers(self.n_clips))
            snr_db = rng.uniform(-how.mixup_snr_db, how.mixup_snr_db)
            sound = _at_snr(sound, self._cut(other, rng), snr_db)
            label = self._mixed_label(index, other, snr_db)
        elif is_street_sound and self._clips.background in self._of_label and rng.random() < how.background_probability:
            ground = self._cut(int(rng.choice(self._of_label[self._clips.background])), rng)
            sound = _at_snr(sound, ground, rng.uniform(*how.background_snr_db))
        window = self._log_mel.frames(self._impaired(sound, rng))
        window = window + np.float32(rng.uniform(*how.gain_db)) + self._microphone_colour(rng)
        return Example(at_card_level(window), label, sound)

    def _one_hot(self, index: int) -> FloatArray:
        label = np.zeros(self._clips.n_labels, np.float32)
        label[self._clips.targets[index]] = 1.0
        return label

    def _mixed_label(self, index: int, other: int, snr_db: float) -> FloatArray:
        label, other_label = self._one_hot(index), self._one_hot(other)
        if self._likelihoods == "softmax":
            share = np.float32(1.0 / (1.0 + 10.0 ** (-snr_db / 10.0)))
            return share * label + (1 - share) * other_label
        heard: FloatArray = np.maximum(_audible(snr_db) * label, _audible(-snr_db) * other_label)
        if np.delete(heard, self._clips.background).any():
            heard[self._clips.background] = 0.0
        return heard

    def _impaired(self, sound: FloatArray, rng: np.random.Generator) -> FloatArray:
        how, rate_hz = self._how, FRONT_END.sample_rate_hz
        if rng.random() < how.overload_probability:
            sound = impairments.overloaded(sound, rng)
        if rng.random() < how.telephone_probability:
            sound = impairments.over_the_telephone(sound, rate_hz)
        return sound

    def _cut(self, index: int, rng: np.random.Generator) -> FloatArray:
        """A window's length of a clip at a random place, perhaps faster or slower."""
        how, sound = self._how, self._clips.sounds[index]
        n_samples, rate_hz = FRONT_END.window_length_samples, FRONT_END.sample_rate_hz
        speed = rng.uniform(*how.speed) if rng.random() < how.speed_probability else 1.0
        speed = min(speed, len(sound) / n_samples)
        taken = min(len(sound), int(n_samples * speed) + 2)
        start = _louder_of_two(sound, taken, rng)
        cut = sound[start : start + taken]
        if speed != 1.0:
            cut = soxr.resample(cut, rate_hz * speed, rate_hz, quality="MQ")
        cut = cut[:n_samples]
        padded: FloatArray = np.pad(cut, (0, n_samples - len(cut)))
        return padded

    def _microphone_colour(self, rng: np.random.Generator) -> FloatArray:
        """A smooth frequency response: a few random points, joined."""
        points = rng.uniform(-1.0, 1.0, 5) * self._how.colour_db * rng.random()
        response: FloatArray = np.interp(np.linspace(0, 4, FRONT_END.n_mels), np.arange(5), points).astype(np.float32)
        return response


def draws(targets: NDArray[np.int64], recordings: Sequence[str]) -> NDArray[np.float64]:
    """How often each clip is drawn in an epoch, in the mean.

    Each label comes as often as it has clips; within it, a recording counts as much as the square root of its clips
    says: some gave dozens of clips that are much the same.

    Args:
        targets: int64 (n_clips,), index of the label.
        recordings: what each clip was cut from.

    Returns:
        float64 (n_clips,), which sums to n_clips.
    """
    cut_from = [f"{target} {recording}" for target, recording in zip(targets, recordings, strict=True)]
    _, places, counts = np.unique(cut_from, return_inverse=True, return_counts=True)
    often: NDArray[np.float64] = 1.0 / np.sqrt(counts[places])
    for target in np.unique(targets):
        of_label = targets == target
        often[of_label] *= of_label.sum() / often[of_label].sum()
    return often


def _audible(snr_db: float) -> np.float32:
    """How much a sound counts beside another: in full down to `AUDIBLE_DB`, not at all from `MASKED_DB` on."""
    return np.float32(np.clip((snr_db - MASKED_DB) / (AUDIBLE_DB - MASKED_DB), 0.0, 1.0))


def _at_snr(sound: FloatArray, other: FloatArray, snr_db: float) -> FloatArray:
    """Two sounds at once, the other so much quieter; what is silent stays out."""
    level, other_level = level_db(sound), level_db(other)
    if min(level, other_level) <= SILENCE_DB:
        return sound
    mixed: FloatArray = sound + other * np.float32(10.0 ** ((level - other_level - snr_db) / 20.0))
    return mixed


def _louder_of_two(sound: FloatArray, taken: int, rng: np.random.Generator) -> int:
    """A clip of barks is labelled dog_bark in its pauses too: prefer, not always, where there is sound."""
    first, second = rng.integers(0, len(sound) - taken + 1, 2)
    loudness = [_loudness(sound[start : start + taken]) for start in (first, second)]
    return int(first if loudness[0] >= loudness[1] else second)


def _loudness(sound: FloatArray) -> float:
    pieces = np.abs(sound[: len(sound) // ENVELOPE_SAMPLES * ENVELOPE_SAMPLES]).reshape(-1, ENVELOPE_SAMPLES)
    return float(pieces.max(axis=1).mean())
