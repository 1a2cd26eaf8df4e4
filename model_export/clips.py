"""Labelled recordings: where they are, what they are called, which recording each was cut from.

In: the folders of UrbanSound8K and ESC-10 (or ESC-50), as published or with one `metadata.csv`. Out: `Clip`s.
Splits go by fold and by recording, never by window.
"""

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from agent.errors import UsageError

URBANSOUND8K_LABELS = (
    "air_conditioner",
    "car_horn",
    "children_playing",
    "dog_bark",
    "drilling",
    "engine_idling",
    "gun_shot",
    "jackhammer",
    "siren",
    "street_music",
)
BACKGROUND = "background"
LABELS = (*URBANSOUND8K_LABELS, BACKGROUND)

# What ESC-10 adds: its dogs bark like UrbanSound8K's; weather, water, fire and clocks are nothing to tell a city.
ESC10_LABELS = {
    "dog_bark": "dog_bark",
    "dog": "dog_bark",
    "rain": BACKGROUND,
    "sea_waves": BACKGROUND,
    "fire_crackling": BACKGROUND,
    "crackling_fire": BACKGROUND,
    "clock_tick": BACKGROUND,
}


@dataclass(frozen=True, slots=True)
class Clip:
    """One labelled cut of a recording.

    Attributes:
        file: the sound file.
        label: one of `LABELS`; of a sound that is not labelled for us, its data set's own name.
        dataset: `us8k` or `esc10`.
        fold: the fold that the data set's authors put it in.
        recording: the Freesound recording it was cut from: clips of one recording are not independent.
    """

    file: Path
    label: str
    dataset: str
    fold: int
    recording: str


def urbansound8k(folder: Path) -> list[Clip]:
    """The clips of UrbanSound8K, as published (`metadata/UrbanSound8K.csv`) or with one `metadata.csv`.

    Raises:
        UsageError: the folder has neither.
    """
    if (folder / "metadata.csv").is_file():
        rows = _rows(folder / "metadata.csv")
        return [Clip(folder / row["file"], row["class"], "us8k", int(row["fold"]), row["fsID"]) for row in rows]
    published = folder / "metadata" / "UrbanSound8K.csv"
    if not published.is_file():
        raise UsageError(f"--us8k {folder}: no metadata.csv and no metadata/UrbanSound8K.csv in it")
    return [
        Clip(
            folder / "audio" / f"fold{row['fold']}" / row["slice_file_name"],
            row["class"],
            "us8k",
            int(row["fold"]),
            row["fsID"],
        )
        for row in _rows(published)
    ]


def esc10(folder: Path) -> list[Clip]:
    """The clips of ESC-10 that stand for one of our labels; from ESC-50 as published, or with one `metadata.csv`.

    Raises:
        UsageError: the folder has neither `metadata.csv` nor `meta/esc50.csv`.
    """
    return [
        replace(clip, label=ESC10_LABELS[clip.label])
        for clip in _esc10_as_published(folder)
        if clip.label in ESC10_LABELS
    ]


def esc10_others(folder: Path) -> list[Clip]:
    """The other clips of ESC-10, under its own names: sounds for teachers, which need no label.

    Raises:
        UsageError: as `esc10`.
    """
    return [clip for clip in _esc10_as_published(folder) if clip.label not in ESC10_LABELS]


def _esc10_as_published(folder: Path) -> list[Clip]:
    if (folder / "metadata.csv").is_file():
        return [
            Clip(folder / row["file"], row["class"], "esc10", int(row["fold"]), row["source_id"])
            for row in _rows(folder / "metadata.csv")
        ]
    if (folder / "meta" / "esc50.csv").is_file():
        return [
            Clip(folder / "audio" / row["filename"], row["category"], "esc10", int(row["fold"]), row["src_file"])
            for row in _rows(folder / "meta" / "esc50.csv")
            if row["esc10"] == "True"
        ]
    raise UsageError(f"--esc10 {folder}: no metadata.csv and no meta/esc50.csv in it")


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def hold_out_fold(clips: Iterable[Clip], fold: int) -> tuple[list[Clip], list[Clip]]:
    """Split off one fold for the test; no recording of it stays in training, in whichever data set it stands.

    Returns:
        training clips, test clips.
    """
    clips = list(clips)
    test = [clip for clip in clips if clip.fold == fold]
    heard = {clip.recording for clip in test}
    train = [clip for clip in clips if clip.fold != fold and clip.recording not in heard]
    return train, test


def split_by_recording(clips: Iterable[Clip], *, fraction: float, seed: int) -> tuple[list[Clip], list[Clip]]:
    """Split off a fraction of each label's recordings for validation, all clips of a recording together.

    Returns:
        training clips, validation clips.
    """
    clips = list(clips)
    rng = np.random.default_rng(seed)
    held: set[tuple[str, str]] = set()
    for label in sorted({clip.label for clip in clips}):
        recordings = sorted({clip.recording for clip in clips if clip.label == label})
        chosen = rng.permutation(len(recordings))[: round(fraction * len(recordings))]
        held |= {(label, recordings[index]) for index in chosen}
    is_held: Callable[[Clip], bool] = lambda clip: (clip.label, clip.recording) in held  # noqa: E731
    return [clip for clip in clips if not is_held(clip)], [clip for clip in clips if is_held(clip)]
