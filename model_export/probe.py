"""What must not change a model's mind, and what it should know as nothing to tell: gain, noise, backgrounds.

In: a model folder, clips, recordings of sounds that are none of its classes. Out: a `Probe`. Samples are scaled in
float and never clipped; what is too loud meets the front end's own ceiling.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.errors import RecordingError
from agent.model_card import EventNumbers, ModelCard, ModelFolder, event_rules
from agent.recordings import walk
from agent.values import AudioBlock, FloatArray, Prediction
from model_export import noise
from model_export.clips import Clip
from model_export.embeddings import Listener

GAINS_DB = (-20.0, -10.0, 10.0, 20.0)
LEVELS_DB = (-90.0, -60.0, -40.0, -20.0, -3.0)  # of noise, relative to a full-scale sine
NOISES = ("white", "pink", "brown", "hum", "wind")
NOISE_RATE_HZ = 48_000
NOISE_S, N_DRAWS = 3.0, 5
SINE_RMS = 0.5**0.5


@dataclass(frozen=True, slots=True)
class Gain:
    """How often another gain makes another label.

    Attributes:
        gain_db: what the samples were scaled by.
        clips_changed: fraction of the clips.
        windows_changed: fraction of their windows.
    """

    gain_db: float
    clips_changed: float
    windows_changed: float


@dataclass(frozen=True, slots=True)
class Ground:
    """A sound that is none of the classes.

    Attributes:
        sound: what it is.
        level_db: of noise, its level relative to a full-scale sine; None of silence and of recordings.
        gain_db: of recordings, what their samples were scaled by; None of noise.
        windows: how many were judged.
        as_background: fraction of them in which background has the largest likelihood; None where no label is that.
        told: fraction in which another label reaches the likelihood at which its events start.
        otherwise: the label that has the largest likelihood most often, background apart; None where none ever has.
    """

    sound: str
    level_db: float | None
    gain_db: float | None
    windows: int
    as_background: float | None
    told: float
    otherwise: str | None


@dataclass(frozen=True, slots=True)
class Probe:
    """All that was found.

    Attributes:
        model: name and version.
        clips: how many clips gain was tried on.
        windows: how many windows those have.
        heard_before: how many of those clips the model was trained on; None where it does not say.
        gains: one for each.
        grounds: noise, and recordings at each gain.
    """

    model: str
    clips: int
    windows: int
    heard_before: int | None
    gains: list[Gain]
    grounds: list[Ground]


def probe(model: ModelFolder, clips: Sequence[Clip], recordings: Mapping[str, Sequence[Path]]) -> Probe:
    """Try gain on clips, and noise and recordings as background.

    Args:
        model: as it is.
        clips: whose labels should not hang on gain; perhaps none.
        recordings: of sounds that are none of the classes, by what they are; perhaps none.
    """
    listener, card = Listener(model), model.card
    gains, n_windows = _gains(listener, clips)
    grounds = [
        _ground(
            card, sound, level_db, None, [listener.hear_blocks([AudioBlock(draw, 0)], NOISE_RATE_HZ) for draw in draws]
        )
        for sound, level_db, draws in _noises()
    ] + [
        _ground(card, sound, None, gain_db, [listener.hear(file, gain_db=gain_db) for file in files])
        for sound, files in recordings.items()
        for gain_db in sorted((0.0, *GAINS_DB))
    ]
    return Probe(
        model=f"{card.name} {card.version}",
        clips=len(clips),
        windows=n_windows,
        heard_before=_heard_before(card, clips),
        gains=gains,
        grounds=grounds,
    )


def recordings_in(folder: Path) -> dict[str, list[Path]]:
    """Recordings of sounds that are none of the classes, by the folder within this one; loose ones by its own name.

    Raises:
        RecordingError: no recordings, or a folder that cannot be listed.
    """
    if not folder.is_dir():
        raise RecordingError(f"{folder}: no such folder")
    files, problems = walk([folder])
    if problems:
        raise problems[0]
    sounds: dict[str, list[Path]] = {}
    for file in files:
        sounds.setdefault((*file.parent.relative_to(folder).parts, folder.name)[0], []).append(file)
    return sounds


def drawn(clips: Sequence[Clip], n_clips: int) -> list[Clip]:
    """Some of the clips, the same each time."""
    order = np.random.default_rng(0).permutation(len(clips))[:n_clips]
    return [clips[index] for index in sorted(order.tolist())]


def _heard_before(card: ModelCard, clips: Sequence[Clip]) -> int | None:
    if card.trained_on is None:
        return None
    return sum(clip.fold in card.trained_on.get(clip.dataset, ()) for clip in clips)


def _gains(listener: Listener, clips: Sequence[Clip]) -> tuple[list[Gain], int]:
    """What each gain changes, and over how many windows."""
    n_windows = 0
    clips_changed, windows_changed = np.zeros(len(GAINS_DB)), np.zeros(len(GAINS_DB))
    for clip in clips:
        before = _likelihoods(listener.hear(clip.file))
        n_windows += len(before)
        for place, gain_db in enumerate(GAINS_DB):
            after = _likelihoods(listener.hear(clip.file, gain_db=gain_db))
            windows_changed[place] += (after.argmax(axis=1) != before.argmax(axis=1)).sum()
            clips_changed[place] += after.sum(axis=0).argmax() != before.sum(axis=0).argmax()
    if not clips:
        return [], 0
    return [
        Gain(gain_db, float(of_clips / len(clips)), float(of_windows / n_windows))
        for gain_db, of_clips, of_windows in zip(GAINS_DB, clips_changed, windows_changed, strict=True)
    ], n_windows


def _likelihoods(predictions: Sequence[Prediction]) -> FloatArray:
    """float32 (n_windows, n_labels)."""
    return np.stack([one.likelihoods for one in predictions])


def _noises() -> Iterator[tuple[str, float | None, list[FloatArray]]]:
    """What it is, how loud, and the sounds; digital silence first."""
    n_samples = round(NOISE_S * NOISE_RATE_HZ)
    yield "silence", None, [np.zeros(n_samples, np.float32)]
    for number, sound in enumerate(NOISES):
        rng = np.random.default_rng(number)
        draws = [_noise(sound, n_samples, rng) for _ in range(N_DRAWS)]
        for level_db in LEVELS_DB:
            yield sound, level_db, [np.float32(SINE_RMS * 10.0 ** (level_db / 20.0)) * draw for draw in draws]


def _noise(sound: str, n_samples: int, rng: np.random.Generator) -> FloatArray:
    """float32 (n_samples,), of RMS 1."""
    if sound in noise.COLOURS:
        return noise.coloured(sound, n_samples, rng)
    return {"hum": noise.hum, "wind": noise.wind}[sound](n_samples, NOISE_RATE_HZ, rng)


def _ground(
    card: ModelCard, sound: str, level_db: float | None, gain_db: float | None, heard: Sequence[Sequence[Prediction]]
) -> Ground:
    likelihoods = np.concatenate([_likelihoods(predictions) for predictions in heard])
    rules = event_rules(card.events, card.labels, EventNumbers(), {})
    is_background: NDArray[np.bool_] = np.array([label == card.background_label for label in card.labels])
    wins = likelihoods.argmax(axis=1)  # (n_windows,)
    counts = np.bincount(wins, minlength=len(card.labels)) * ~is_background
    reached = (likelihoods >= [rules[label].on for label in card.labels]) & ~is_background
    return Ground(
        sound=sound,
        level_db=level_db,
        gain_db=gain_db,
        windows=len(likelihoods),
        as_background=float(is_background[wins].mean()) if card.background_label else None,
        told=float(reached.any(axis=1).mean()),
        otherwise=card.labels[int(counts.argmax())] if counts.any() else None,
    )
