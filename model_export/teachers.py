"""What published networks make of a sound, as lessons for ours.

In: published networks and windows of sound. Out: what each taught layer of ours is to predict of the window. Ours does
not only learn what a teacher says in the end but how it comes to it: for each layer of ours, the map of the teacher
whose columns hear as much sound as ours do. Of the embedding it learns the principal components, each as much as any
other: a few of them hold most of the variance, but not most of what tells sounds apart. Teachers are used in training
only.

Source: hints from inner layers, Romero et al., FitNets, ICLR 2015.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from agent.errors import ModelError
from agent.frontend import htk_mel
from agent.values import FloatArray
from model_export.augment import SILENCE_DB, level_db
from model_export.features import FRONT_END
from model_export.networks import FILTERS
from model_export.published import FeatureMap, PublishedNetwork

PLAIN_LEVEL_DB, MAX_GAIN_DB = -23.0, 30.0  # a teacher hears every sound at this level, if that takes no more gain
# The spectrograms of YAMNet, and of VGGish before it.
FRAME_HOP_S, TAPER_S, MEL_RANGE_HZ = 0.010, 0.025, (125.0, 7_500.0)
VARIANCE_FLOOR = 0.02  # of the mean variance: values that hardly move are not blown up
EMBEDDING_LAYER = "maximum"
MOST_UNITS = 6.0  # a component is learnt up to: a sound unlike all others, such as silence, must not drown the rest
N_COMPONENTS = 48  # of an embedding: more do not help a linear layer to tell our labels apart (docs/experiments.md)

Places = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class OurLayer:
    """A layer of ours that predicts a teacher's map.

    Attributes:
        name: in Keras.
        hears_s: from the middle of the first frame that one column hears to the middle of the last.
        times_s: float64 (n_columns,), where the columns lie in the window.
        mels: float64 (n_rows,), where the rows lie.
    """

    name: str
    hears_s: float
    times_s: Places
    mels: Places


def our_layers() -> Iterator[OurLayer]:
    """The end of each block but the first, whose columns hear too little to be compared."""
    numbers = FRONT_END
    hop_s = numbers.hop_length_samples / numbers.sample_rate_hz
    taper_s = numbers.taper_length_samples / numbers.sample_rate_hz
    column, n_columns, step, hears = 0.0, numbers.n_frames, 1, 1
    n_rows = numbers.n_mels - 2  # the first convolution does not pad: its rows begin at the second band
    for block in range(1, len(FILTERS) + 1):
        column += 2 * step  # two convolutions, three columns wide, without padding
        hears += 4 * step
        n_columns -= 4
        is_last = block == len(FILTERS)
        if not is_last:
            column += step / 2
            hears += step
            step, n_columns, n_rows = 2 * step, n_columns // 2, n_rows // 2
        if block > 1:
            yield OurLayer(
                name=f"relu{block}b" if is_last else f"pool{block}",
                hears_s=(hears - 1) * hop_s,
                times_s=taper_s / 2 + hop_s * (column + step * np.arange(n_columns, dtype=np.float64)),
                mels=_mels(1 + (step - 1) / 2 + step * np.arange(n_rows), (numbers.mel_min_hz, numbers.mel_max_hz)),
            )


@dataclass(frozen=True, slots=True)
class Lesson:
    """Something that is to be predicted of a window.

    Attributes:
        layer: the layer of ours that predicts it.
        n_values: how many values, at each place of a map or in all.
        weight: how much the error counts, relative to the labels.
    """

    layer: str
    n_values: int
    weight: float


class Teachers:
    """Several published networks.

    Args:
        networks: the teachers; one whose spectrogram has no maps above it teaches its embedding alone.
        map_weights: how much the maps count, one weight for each of `our_layers`.
        embedding_weight: how much the embedding counts.

    Attributes:
        lessons: what is taught, in the order of what `say` gives.

    Raises:
        ModelError: a teacher's window is longer than ours.
    """

    def __init__(
        self, networks: Sequence[PublishedNetwork], *, map_weights: Sequence[float], embedding_weight: float
    ) -> None:
        self._networks = networks
        self._maps: list[list[FeatureMap]] = []
        self._readers: list[tuple[_Reader, _Reader] | None] = []  # for each lesson; none for an embedding
        self.lessons: list[Lesson] = []
        layers = list(our_layers())
        for network in networks:
            if network.window_samples > FRONT_END.window_s * network.rate_hz:
                raise ModelError(
                    f"network {network.name}: hears {network.window_samples} samples at {network.rate_hz} Hz at once, "
                    f"expected at most the {FRONT_END.window_s:g} s of our window"
                )
            chosen = [_alike(layer, network.maps) for layer in layers] if network.maps else []
            self._maps.append(chosen)
            for layer, one, weight in zip(layers, chosen, map_weights, strict=False):  # none chosen, none taught
                self.lessons.append(Lesson(layer.name, one.n_values, weight))
                self._readers.append(_readers(layer, one, network))
            n_components = min(N_COMPONENTS, network.embedding_values)
            self.lessons.append(Lesson(EMBEDDING_LAYER, n_components, embedding_weight))
            self._readers.append(None)
        n_heard = [
            n_values
            for network, chosen in zip(networks, self._maps, strict=True)
            for n_values in (*(one.n_values for one in chosen), network.embedding_values)
        ]
        self._units = [  # as they come, until they are settled
            _Units(
                np.zeros(n, np.float32),
                np.ones(n, np.float32),
                None if readers else np.eye(n, lesson.n_values, dtype=np.float32),
            )
            for n, lesson, readers in zip(n_heard, self.lessons, self._readers, strict=True)
        ]

    def settle(self, sounds: FloatArray) -> None:
        """Set the units of all lessons, so that each value varies by about 1 over these sounds.

        Args:
            sounds: float32 (n, window_length), at our front end's rate.
        """
        moments = [np.zeros((3, len(units.mean))) for units in self._units]  # how many, their sum, that of squares
        rows: list[list[FloatArray]] = [[] for _ in self.lessons]  # embeddings alone: maps are large
        for sound in sounds:
            for index, values in enumerate(self._heard(sound)):
                places = values.reshape(-1, values.shape[-1]).astype(np.float64)
                moments[index] += [np.full(places.shape[1], len(places)), places.sum(axis=0), (places**2).sum(axis=0)]
                if self._readers[index] is None:
                    rows[index].append(values)
        self._units = [_units(*of_lesson) for of_lesson in moments]
        for index, of_lesson in enumerate(rows):
            if of_lesson:
                standard = self._units[index].of(np.stack(of_lesson))
                components = _components(standard, self.lessons[index].n_values)
                self._units[index] = replace(self._units[index], components=components)

    def say(self, sounds: FloatArray) -> list[FloatArray]:
        """What is to be predicted of each window.

        Args:
            sounds: float32 (n, window_length), at our front end's rate.

        Returns:
            for each lesson, float32 (n, n_columns, n_rows, n_values) of a map, (n, n_components) of an embedding.
        """
        said = [self._lessons_of(sound) for sound in sounds]
        return [np.stack(rows) for rows in zip(*said, strict=True)]

    @property
    def embedding_values(self) -> list[int]:
        """How many components are said of the embedding of each teacher."""
        return [lesson.n_values for lesson in self.lessons if lesson.layer == EMBEDDING_LAYER]

    def embeddings(self, said: Sequence[FloatArray]) -> list[FloatArray]:
        """Of what was said, the components of the embedding of each teacher, float32 (n, n_components)."""
        return [one for lesson, one in zip(self.lessons, said, strict=True) if lesson.layer == EMBEDDING_LAYER]

    def _lessons_of(self, sound: FloatArray) -> list[FloatArray]:
        lessons = []
        for values, units, readers in zip(self._heard(sound), self._units, self._readers, strict=True):
            standard = units.of(values)
            if readers is not None:
                in_time, in_pitch = readers
                standard = in_pitch.read(in_time.read(standard).swapaxes(0, 1)).swapaxes(0, 1)
            lessons.append(standard.astype(np.float32))
        return lessons

    def _heard(self, sound: FloatArray) -> Iterator[FloatArray]:
        """Maps (n_columns, n_rows, n_values) and embedding (n_values,) of each teacher, roots of what they are."""
        for network, maps in zip(self._networks, self._maps, strict=True):
            plain = network.resampled(_at_plain_level(sound), FRONT_END.sample_rate_hz)
            before = (len(plain) - network.window_samples) // 2
            for values in network.inside(plain[before : before + network.window_samples], maps):
                yield np.sign(values) * np.sqrt(np.abs(values))


def _at_plain_level(sound: FloatArray) -> FloatArray:
    level = level_db(sound)
    gain_db = min(PLAIN_LEVEL_DB - level, MAX_GAIN_DB) if level > SILENCE_DB else 0.0
    louder = sound * np.float32(10.0 ** (gain_db / 20.0))
    plain: FloatArray = louder / max(np.float32(1.0), np.abs(louder).max())
    return plain


def _alike(layer: OurLayer, maps: Sequence[FeatureMap]) -> FeatureMap:
    """The map whose columns hear as much sound as those of our layer; of several such, the last."""
    return min(reversed(maps), key=lambda one: abs((one.hears_frames - 1) * FRAME_HOP_S - layer.hears_s))


@dataclass(frozen=True, slots=True)
class _Units:
    """What a teacher's values are brought to.

    Attributes:
        mean, scale: float32 (d,), what is taken off and multiplied with.
        components: float32 (d, n_components), what is learnt of the values then; of a map, all of them.
    """

    mean: FloatArray
    scale: FloatArray
    components: FloatArray | None = None

    def of(self, values: FloatArray) -> FloatArray:
        """Values along the last axis."""
        standard: FloatArray = (values - self.mean) * self.scale
        return standard if self.components is None else np.clip(standard @ self.components, -MOST_UNITS, MOST_UNITS)


def _units(n: Places, total: Places, squares: Places) -> _Units:
    mean = total / n
    variance = np.maximum(squares / n - mean**2, 0.0)
    floor = VARIANCE_FLOOR * variance.mean() + 1e-12
    return _Units(mean.astype(np.float32), (1.0 / np.sqrt(variance + floor)).astype(np.float32))


def _components(rows: FloatArray, n_components: int) -> FloatArray:
    """The directions in which rows vary most, scaled so that they vary by about 1 along each: float32 (d, n)."""
    variances, directions = np.linalg.eigh(np.cov(rows.T.astype(np.float64)))
    floor = VARIANCE_FLOOR * variances.mean() + 1e-12
    most = slice(-1, -n_components - 1, -1)  # they come in rising order
    components: FloatArray = (directions[:, most] / np.sqrt(variances[most] + floor)).astype(np.float32)
    return components


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads the values along one axis of a map between its places: linear, and the nearest beyond the ends.

    Attributes:
        lower: int64 (n,), for each of our places theirs below it.
        fraction: float32 (n,), how far it lies from there to the next.
    """

    lower: NDArray[np.int64]
    fraction: FloatArray

    @classmethod
    def at(cls, theirs: Places, ours: Places) -> Self:
        """Where each of our places lies among theirs."""
        lower = np.clip(np.searchsorted(theirs, ours) - 1, 0, len(theirs) - 2)
        fraction = (ours - theirs[lower]) / (theirs[lower + 1] - theirs[lower])
        return cls(lower, np.clip(fraction, 0.0, 1.0).astype(np.float32))

    def read(self, values: FloatArray) -> FloatArray:
        """Values at our places, along the first axis."""
        fraction = self.fraction.reshape(-1, *(1,) * (values.ndim - 1))
        read: FloatArray = (1 - fraction) * values[self.lower] + fraction * values[self.lower + 1]
        return read


def _readers(layer: OurLayer, one: FeatureMap, network: PublishedNetwork) -> tuple[_Reader, _Reader]:
    """How to read a teacher's map at the places of our layer: in time, in pitch."""
    begin_s = (FRONT_END.window_s - network.window_samples / FRONT_END.sample_rate_hz) / 2
    times_s = (
        begin_s
        + TAPER_S / 2
        + FRAME_HOP_S * (one.first_frame + one.frame_step * np.arange(one.n_columns, dtype=np.float64))
    )
    mels = _mels(one.first_band + one.band_step * np.arange(one.n_rows), MEL_RANGE_HZ, one.n_bands)
    return _Reader.at(times_s, layer.times_s), _Reader.at(mels, layer.mels)


def _mels(bands: NDArray[np.floating], range_hz: tuple[float, float], n_bands: int = FRONT_END.n_mels) -> Places:
    """The centres of mel bands, which may lie between two of them."""
    lowest, highest = htk_mel(np.float64(range_hz[0])), htk_mel(np.float64(range_hz[1]))
    centres: Places = lowest + (bands + 1) * (highest - lowest) / (n_bands + 1)
    return centres
