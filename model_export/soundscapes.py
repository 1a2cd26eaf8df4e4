"""Streets made of recordings, with a list of what sounds when: to set and to judge the rules for events.

In: clips of given folds. Out: `Soundscape`s, minutes of sound over grounds of noise and weather, some of them without
any event; and the command's folder. A scene follows from the seed, its fold, its group and its number alone, so more
hours give the same scenes and more.

Scenes of different groups have no recording in common, so what is chosen on some groups can be judged on the others.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from agent.errors import UsageError
from agent.values import FloatArray
from model_export import noise
from model_export.clips import BACKGROUND, Clip
from model_export.features import read_mono
from model_export.mixing import audible, edged, joined, loudness_db, scaled
from model_export.scenes import DECIMALS, Scene, Sounding, write_soundings

SAMPLE_RATE_HZ = 32_000
N_GROUPS = 4  # of each fold
MIN_SOUNDING_S = 0.1
FULL_SCALE = 32_767

# Sounds that go on: there are more seconds of each recording than a clip holds, and a street has longer ones.
SUSTAINED = frozenset(
    {"air_conditioner", "children_playing", "drilling", "engine_idling", "jackhammer", "siren", "street_music"}
)


@dataclass(frozen=True, slots=True)
class Street:
    """How a scene is drawn. Ranges are drawn from evenly, times in them evenly in their logarithm.

    Attributes:
        scene_s: length of a scene.
        event_free_every: each so many scenes of a group, one has no event.
        ground_db: mean level of the ground.
        ground_s: after so long it changes into another one.
        ground_change_db: by how much its level is above or below the mean, at most.
        noise_only: how many grounds are noise alone; the others have recordings in them.
        snr_db: how far a sound lies above the ground while it sounds.
        pause_s: mean of the pauses between two sounds, drawn for each scene.
        lull_probability: that a pause is a lull in which nothing happens.
        lull_s: its length.
        overlap_probability: that a sound begins while another sounds; never more than two at a time.
        same_label_gap_s: two sounds of one label are at least so far apart, else they would be one.
        stretch_probability: that a sustained sound is longer or shorter than its clip.
        stretch_s: how long it is then.
        stranger_probability: that there is a sound that is none of the labels, and is not labelled.
    """

    scene_s: float = 60.0
    event_free_every: int = 2
    ground_db: tuple[float, float] = (-65.0, -38.0)
    ground_s: tuple[float, float] = (10.0, 60.0)
    ground_change_db: float = 4.0
    noise_only: float = 0.4
    snr_db: tuple[float, float] = (3.0, 25.0)
    pause_s: tuple[float, float] = (1.5, 10.0)
    lull_probability: float = 0.15
    lull_s: tuple[float, float] = (8.0, 20.0)
    overlap_probability: float = 0.25
    same_label_gap_s: float = 2.0
    stretch_probability: float = 0.5
    stretch_s: tuple[float, float] = (1.0, 15.0)
    stranger_probability: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Soundscape:
    """A scene and its sound.

    Attributes:
        scene: what is true of it.
        samples: float32 (n,) at `SAMPLE_RATE_HZ`, whole steps of 16 bits.
        made_of: how it was made, for the record.
    """

    scene: Scene
    samples: FloatArray
    made_of: dict[str, Any]


@dataclass(slots=True)
class _Material:
    """The recordings of one group: by label, or `BACKGROUND`, then by name. Strangers are by their own label."""

    sounds: dict[str, dict[str, list[Clip]]] = field(default_factory=lambda: defaultdict(dict))
    strangers: dict[str, dict[str, list[Clip]]] = field(default_factory=lambda: defaultdict(dict))


def soundscapes(
    clips: Sequence[Clip],
    *,
    strangers: Sequence[Clip] = (),
    folds: Sequence[int],
    hours: float,
    seed: int,
    street: Street | None = None,
) -> Iterator[Soundscape]:
    """Make scenes, one after the other, the same number of each fold and group.

    Args:
        clips: of `LABELS`; of other folds they are not used.
        strangers: sounds that are none of the labels.
        folds: whose clips are heard.
        hours: of all scenes together, rounded up to a whole scene of each group.
        seed: another one gives other scenes.
        street: how they are drawn.

    Raises:
        UsageError: a fold has no clip of a street sound.
        RecordingError: a clip cannot be read.
    """
    street = street or Street()
    groups = [
        (fold, group, material)
        for fold in folds
        for group, material in enumerate(_deal(clips, strangers, fold=fold), start=1)
    ]
    n_scenes = max(1, int(np.ceil(hours * 3600.0 / street.scene_s / len(groups))))
    for number in range(n_scenes):
        for fold, group, material in groups:
            rng = np.random.default_rng([seed, fold, group, number])
            name = f"fold{fold}-{group}-{number:03d}"
            is_event_free = number % street.event_free_every == street.event_free_every - 1
            drawn = _Draw(material, street, rng)
            samples, soundings = drawn.scene(with_events=not is_event_free)
            scene = Scene(name, fold, f"fold{fold}-{group}", tuple(sorted(soundings)))
            made_of = {"fold": fold, "group": scene.group, "seed": seed, "sample_rate_hz": SAMPLE_RATE_HZ}
            yield Soundscape(scene, samples, made_of | drawn.made_of)


def write_soundscape(soundscape: Soundscape, folder: Path) -> None:
    """Write sound, labels and how it was made: `NAME.flac`, `NAME.tsv` and `NAME.json`.

    Raises:
        UsageError: the folder cannot be written.
    """
    file = folder / f"{soundscape.scene.name}.flac"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pcm = np.rint(soundscape.samples * (FULL_SCALE + 1)).astype(np.int16)
        soundfile.write(file, pcm, SAMPLE_RATE_HZ, subtype="PCM_16")
        write_soundings(soundscape.scene.soundings, file.with_suffix(".tsv"))
        file.with_suffix(".json").write_text(json.dumps(soundscape.made_of, indent=1) + "\n", encoding="utf-8")
    except (OSError, soundfile.LibsndfileError) as error:
        raise UsageError(f"--out {folder}: cannot be written ({error})") from error


def _deal(clips: Sequence[Clip], strangers: Sequence[Clip], *, fold: int) -> list[_Material]:
    """Deal the recordings of a fold to its groups, those of each label in turn.

    Faint clips are used only where a label has no clear recording for each group.
    """
    groups = [_Material() for _ in range(N_GROUPS)]
    of_fold = [clip for clip in clips if clip.fold == fold]
    if not any(clip.label != BACKGROUND for clip in of_fold):
        raise UsageError(f"--folds {fold}: no clip of a street sound in it")
    dealt: dict[str, int] = {}  # a recording that has several labels goes to one group
    rng = np.random.default_rng(fold)
    by_label: dict[str, list[Clip]] = defaultdict(list)
    for clip in of_fold:
        by_label[clip.label].append(clip)
    for label, of_label in sorted(by_label.items()):
        clear = [clip for clip in of_label if not clip.is_faint]
        enough = len({clip.recording for clip in clear}) >= N_GROUPS
        _deal_label(clear if enough else of_label, [group.sounds[label] for group in groups], dealt, rng)
    for label in sorted({clip.label for clip in strangers}):
        of_label = [clip for clip in strangers if clip.label == label and clip.fold == fold]
        _deal_label(of_label, [group.strangers[label] for group in groups], dealt, rng)
    return groups


def _deal_label(
    clips: Sequence[Clip],
    hands: Sequence[dict[str, list[Clip]]],
    dealt: dict[str, int],
    rng: np.random.Generator,
) -> None:
    recordings = sorted({clip.recording for clip in clips})
    first = int(rng.integers(len(hands)))
    for place, index in enumerate(rng.permutation(len(recordings))):
        dealt.setdefault(recordings[index], (first + place) % len(hands))
    for clip in clips:
        hands[dealt[clip.recording]].setdefault(clip.recording, []).append(clip)


class _Draw:
    """One scene: everything that chance decides, in order."""

    def __init__(self, material: _Material, street: Street, rng: np.random.Generator) -> None:
        self._material = material
        self._street = street
        self._rng = rng
        self._mix = np.zeros(round(street.scene_s * SAMPLE_RATE_HZ), np.float32)
        self.made_of: dict[str, Any] = {"ground": [], "sounds": [], "gain_db": 0.0}

    def scene(self, *, with_events: bool) -> tuple[FloatArray, list[Sounding]]:
        """The sound, and what is labelled in it."""
        ground = self._ground()
        self._mix += ground
        soundings = list(self._events(ground)) if with_events else []
        if self._rng.random() < self._street.stranger_probability and any(self._material.strangers.values()):
            label = self._choice([label for label, found in self._material.strangers.items() if found])
            at = self._rng.uniform(0.0, self._street.scene_s / 2)
            self._lay(self._material.strangers[label], label, at, ground, may_stretch=False)
        peak = float(np.abs(self._mix).max())
        if peak > 1.0:
            self.made_of["gain_db"] = round(-20.0 * float(np.log10(peak)), 2)
            self._mix /= peak
        steps = (np.rint(self._mix * FULL_SCALE) / (FULL_SCALE + 1)).astype(np.float32)
        return steps, soundings

    def _events(self, ground: FloatArray) -> Iterator[Sounding]:
        """Sounds one after the other, some of them beginning while another sounds."""
        street, rng = self._street, self._rng
        mean_pause_s = self._between(*street.pause_s)
        ends_s: dict[str, float] = {}  # of each label, the newest
        first_s = -street.same_label_gap_s  # of a label that has not sounded yet
        at = rng.exponential(mean_pause_s)
        while True:
            *_, second, last = 0.0, 0.0, *sorted(ends_s.values())
            at = max(at, second)  # two at a time at most
            if at > street.scene_s - 1.0:
                return
            labels = [
                label
                for label, recordings in self._material.sounds.items()
                if label != BACKGROUND and recordings and at >= ends_s.get(label, first_s) + street.same_label_gap_s
            ]
            if labels:
                label = self._choice(labels)
                sounding = self._lay(self._material.sounds[label], label, at, ground, may_stretch=True)
                if sounding is not None:
                    yield sounding
                    ends_s[label] = sounding.offset_s
                    last = max(last, sounding.offset_s)
            if rng.random() < street.overlap_probability and last - at > 1.0:
                at = rng.uniform(at + 0.5, last)
            elif rng.random() < street.lull_probability:
                at = max(at, last) + self._between(*street.lull_s)
            else:
                at = max(at, last) + 0.2 + rng.exponential(mean_pause_s)

    def _lay(
        self, recordings: dict[str, list[Clip]], label: str, at: float, ground: FloatArray, *, may_stretch: bool
    ) -> Sounding | None:
        """Lay one sound of a label into the mix; None if its clip is silent."""
        rng, street = self._rng, self._street
        of_recording = recordings[self._choice(sorted(recordings))]
        first = self._choice(of_recording)
        clips = [first]
        sound = _heard(first)
        if len(sound) < MIN_SOUNDING_S * SAMPLE_RATE_HZ:
            return None
        if may_stretch and label in SUSTAINED and rng.random() < street.stretch_probability:
            others = [clip for clip in of_recording if clip is not first]
            clips += [others[index] for index in rng.permutation(len(others))]
            n_samples = round(self._between(*street.stretch_s) * SAMPLE_RATE_HZ)
            sound, clips = _stretched(sound, clips, n_samples)
        start = round(at * SAMPLE_RATE_HZ)
        sound = edged(sound[: len(self._mix) - start], SAMPLE_RATE_HZ)
        stop = start + len(sound)
        snr_db = rng.uniform(*street.snr_db)
        level_db = loudness_db(ground[start:stop], SAMPLE_RATE_HZ) + snr_db
        self._mix[start:stop] += scaled(sound, level_db - loudness_db(sound, SAMPLE_RATE_HZ))
        sounding = Sounding(round(start / SAMPLE_RATE_HZ, DECIMALS), round(stop / SAMPLE_RATE_HZ, DECIMALS), label)
        self.made_of["sounds"].append(
            {
                "label": label,
                "onset_s": sounding.onset_s,
                "offset_s": sounding.offset_s,
                "snr_db": round(snr_db, 2),
                "level_db": round(level_db, 2),
                "recording": first.recording,
                "clips": [f"{clip.dataset}/{clip.file.name}" for clip in clips],
            }
        )
        return sounding

    def _ground(self) -> FloatArray:
        """What sounds all the time: stretches of noise, of recordings of weather and the like, or of both."""
        mean_db = self._rng.uniform(*self._street.ground_db)
        pieces: list[FloatArray] = []
        while sum(map(len, pieces)) < len(self._mix) + len(pieces) * SAMPLE_RATE_HZ:  # each fades into the next
            n_samples = round(self._between(*self._street.ground_s) * SAMPLE_RATE_HZ)
            level_db = mean_db + self._rng.uniform(-1.0, 1.0) * self._street.ground_change_db
            pieces.append(self._ground_stretch(n_samples, level_db))
        return joined(pieces, len(self._mix), SAMPLE_RATE_HZ)

    def _ground_stretch(self, n_samples: int, level_db: float) -> FloatArray:
        rng = self._rng
        names = sorted(self._material.sounds.get(BACKGROUND, {}))
        told: list[dict[str, Any]] = []
        layers: list[FloatArray] = []
        if names and rng.random() >= self._street.noise_only:
            for index in rng.permutation(len(names))[: int(rng.integers(1, 3))]:
                clips = self._material.sounds[BACKGROUND][names[index]]
                pieces = [sound for clip in clips if len(sound := _heard(clip)) > SAMPLE_RATE_HZ // 2]
                if pieces:
                    layers.append(joined(pieces, n_samples, SAMPLE_RATE_HZ))
                    told.append({"recording": names[index]})
        layers.append(self._noise(n_samples))  # always: a microphone knows no digital silence
        told.append({"recording": "noise"})
        ground = np.zeros(n_samples, np.float32)
        for number, layer in enumerate(layers):
            layer_db = level_db + (rng.uniform(-24.0, 0.0) if number else 0.0)
            ground += scaled(layer, layer_db - loudness_db(layer, SAMPLE_RATE_HZ))
            told[number] |= {"duration_s": round(n_samples / SAMPLE_RATE_HZ, DECIMALS), "level_db": round(layer_db, 2)}
        self.made_of["ground"].append(told)
        return ground

    def _noise(self, n_samples: int) -> FloatArray:
        while True:
            sound = noise.background(n_samples, SAMPLE_RATE_HZ, self._rng)
            if sound.any():  # digital silence is no ground: nothing could lie above it
                return sound

    def _between(self, low: float, high: float) -> float:
        return float(np.exp(self._rng.uniform(np.log(low), np.log(high))))

    def _choice(self, options: Sequence[Any]) -> Any:  # noqa: ANN401  whatever the options are
        return options[int(self._rng.integers(len(options)))]


def _heard(clip: Clip) -> FloatArray:
    """A clip at the scene's rate, without silence before, after and between."""
    samples, rate_hz = read_mono(clip.file)
    if rate_hz != SAMPLE_RATE_HZ:
        samples = soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ)
    return audible(samples, SAMPLE_RATE_HZ)


def _stretched(sound: FloatArray, clips: Sequence[Clip], n_samples: int) -> tuple[FloatArray, list[Clip]]:
    """So many samples of the clips joined; and the clips that were needed."""
    pieces, used = [sound], [clips[0]]
    for clip in clips[1:]:
        if sum(map(len, pieces)) >= n_samples:
            break
        if len(piece := _heard(clip)) >= MIN_SOUNDING_S * SAMPLE_RATE_HZ:
            pieces.append(piece)
            used.append(clip)
    return joined(pieces, n_samples, SAMPLE_RATE_HZ), used
