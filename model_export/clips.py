"""Labelled recordings: where they are, what they are called, which recording each was cut from.

In: the folders of UrbanSound8K and ESC-10 (or ESC-50), as published or with one `metadata.csv`; or a folder with one
folder for each class. Out: `Clip`s. Splits go by fold and by recording, never by window.
"""

import csv
import functools
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from agent.errors import RecordingError, UsageError
from agent.model_card import sha256_of
from agent.recordings import SUFFIXES, walk

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
LABEL_PATTERN = r"[a-z0-9][a-z0-9_]*"
MAX_FOLDS = 5  # of one's own classes

# What ESC-10 adds: its dogs bark like UrbanSound8K's; all else is nothing that the city asked for.
ESC10_LABELS = {
    "dog_bark": "dog_bark",
    "dog": "dog_bark",
    "rain": BACKGROUND,
    "sea_waves": BACKGROUND,
    "fire_crackling": BACKGROUND,
    "crackling_fire": BACKGROUND,
    "clock_tick": BACKGROUND,
    "baby_cry": BACKGROUND,
    "crying_baby": BACKGROUND,
    "chainsaw": BACKGROUND,
    "helicopter": BACKGROUND,
    "person_sneeze": BACKGROUND,
    "sneezing": BACKGROUND,
    "rooster": BACKGROUND,
}
ESC10_GROUND = ("rain", "sea_waves", "fire_crackling", "crackling_fire", "clock_tick")  # goes on, below other sounds


@dataclass(frozen=True, slots=True)
class Clip:
    """One labelled cut of a recording.

    Attributes:
        file: the sound file.
        label: one of `LABELS`, or one's own.
        dataset: `us8k`, `esc10` or `own`.
        fold: the fold that the data set's authors put it in; of one's own classes, the fold it was dealt to.
        recording: the recording it was cut from: clips of one recording are not independent.
        is_faint: whether its data set says that the sound lies in the background of the clip.
    """

    file: Path
    label: str
    dataset: str
    fold: int
    recording: str
    is_faint: bool = False


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of a table of clips; what is missing or wrong in it is a usage error that names it.

    Attributes:
        place: file and line.
        values: by column; None where the line ended before.
    """

    place: str
    values: Mapping[str, str | None]

    def __getitem__(self, column: str) -> str:
        value = self.values.get(column)
        if value is None:
            raise UsageError(f"{self.place}: nothing in column {column}, expected a value")
        return value

    def one_of(self, known: Collection[str], column: str) -> str:
        """What stands in a column that has only so many values."""
        if self[column] not in known:
            raise UsageError(f"{self.place}: {column} {self[column]}, expected one of {', '.join(known)}")
        return self[column]

    @property
    def fold(self) -> int:
        try:
            return int(self["fold"])
        except ValueError as error:
            raise UsageError(f"{self.place}: fold {self['fold']}, expected a number") from error


def urbansound8k(folder: Path) -> list[Clip]:
    """The clips of UrbanSound8K, as published (`metadata/UrbanSound8K.csv`) or with one `metadata.csv`.

    Raises:
        UsageError: the folder has neither, or a line is not of UrbanSound8K.
    """
    if (folder / "metadata.csv").is_file():
        rows = _rows(folder / "metadata.csv")
        return [_us8k_clip(folder / row["file"], row) for row in rows]
    published = folder / "metadata" / "UrbanSound8K.csv"
    if not published.is_file():
        raise UsageError(f"--us8k {folder}: no metadata.csv and no metadata/UrbanSound8K.csv in it")
    return [
        _us8k_clip(folder / "audio" / f"fold{row['fold']}" / row["slice_file_name"], row) for row in _rows(published)
    ]


def _us8k_clip(file: Path, row: _Row) -> Clip:
    is_faint = row.values.get("salience") == "2"
    return Clip(file, row.one_of(LABELS, "class"), "us8k", row.fold, row["fsID"], is_faint=is_faint)


def esc10(folder: Path) -> list[Clip]:
    """The clips of ESC-10, under our labels; from ESC-50 as published, or with one `metadata.csv`.

    Raises:
        UsageError: the folder has neither `metadata.csv` nor `meta/esc50.csv`.
    """
    return [replace(clip, label=ESC10_LABELS[clip.label]) for clip in esc10_as_published(folder)]


def esc10_strangers(folder: Path) -> list[Clip]:
    """The clips of ESC-10 that come and go and are none of our labels, under its own names.

    Raises:
        UsageError: as `esc10`.
    """
    return [
        clip
        for clip in esc10_as_published(folder)
        if ESC10_LABELS[clip.label] == BACKGROUND and clip.label not in ESC10_GROUND
    ]


def esc10_as_published(folder: Path) -> list[Clip]:
    """All clips of ESC-10, ten classes under its own names; from ESC-50 as published, or with one `metadata.csv`.

    Raises:
        UsageError: the folder has neither `metadata.csv` nor `meta/esc50.csv`, or a line is not of ESC-10.
    """
    if (folder / "metadata.csv").is_file():
        return [
            Clip(folder / row["file"], row.one_of(ESC10_LABELS, "class"), "esc10", row.fold, row["source_id"])
            for row in _rows(folder / "metadata.csv")
        ]
    if (folder / "meta" / "esc50.csv").is_file():
        return [
            Clip(
                folder / "audio" / row["filename"],
                row.one_of(ESC10_LABELS, "category"),
                "esc10",
                row.fold,
                row["src_file"],
            )
            for row in _rows(folder / "meta" / "esc50.csv")
            if row["esc10"] == "True"
        ]
    raise UsageError(f"--esc10 {folder}: no metadata.csv and no meta/esc50.csv in it")


def class_folders(folder: Path) -> list[Clip]:
    """One's own clips: a folder for each class, named as the label, and recordings in it.

    A file in the class's folder is a recording. So is a folder there, with all files in it: clips that were cut from
    one recording belong in a folder of their own. The recordings of each class are dealt to up to `MAX_FOLDS` folds,
    the same each time.

    Raises:
        UsageError: no such folder, fewer than two classes, a recording outside of them, a name that is no label, a
            link to a folder within a class, or fewer than two recordings of a class.
        RecordingError: a class without recordings, or a folder that cannot be listed.
    """
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UsageError(
            f"--data {folder}: {error.strerror}; expected a folder with one folder for each class"
        ) from error
    classes = [path for path in entries if path.is_dir()]
    loose = [path for path in entries if path.suffix.lower() in SUFFIXES and path not in classes]
    if loose:
        raise UsageError(
            f"--data {folder}: recordings that lie in no class's folder: {len(loose)}, the first {loose[0].name}; "
            "expected none"
        )
    if len(classes) < 2:
        raise UsageError(f"--data {folder}: folders in it: {len(classes)}, expected two or more, one for each class")
    recordings = {path.name: _recordings_of_class(path) for path in classes}
    n_folds = min(MAX_FOLDS, *map(len, recordings.values()))
    rng = np.random.default_rng(0)
    return [
        Clip(file, label, "own", 1 + int(place) % n_folds, name)
        for label, of_class in recordings.items()
        for (name, files), place in zip(of_class.items(), rng.permutation(len(of_class)), strict=True)
        for file in files
    ]


def _recordings_of_class(folder: Path) -> dict[str, list[Path]]:
    """The files of each recording in a class's folder."""
    if not re.fullmatch(LABEL_PATTERN, folder.name):
        raise UsageError(f"--data {folder}: {folder.name!r} is no label, expected small letters, digits and _")
    files, problems = walk([folder])
    if problems:
        raise problems[0]
    links = [path for path in folder.rglob("*") if path.is_symlink() and path.is_dir()]
    if links:  # `walk` does not enter them
        raise UsageError(f"--data {links[0]}: is a link to a folder, expected the folder itself")
    recordings: dict[str, list[Path]] = {}
    for file in files:
        recordings.setdefault(f"{folder.name}/{file.relative_to(folder).parts[0]}", []).append(file)
    if len(recordings) < 2:
        raise UsageError(
            f"--data {folder}: recordings in it: {len(recordings)}, expected two or more, to test on one of them"
        )
    return recordings


def _rows(file: Path) -> list[_Row]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:  # a spreadsheet writes a mark in front
            reader = csv.DictReader(lines)
            return [_Row(f"{file}, line {reader.line_num}", row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{file}: not CSV in UTF-8 ({error})") from error


def digest_of(clips: Iterable[Clip]) -> str:
    """A SHA-256 that other clips, other labels, recordings or folds, or files of other content do not have.

    Where the files lie and in which order they come does not matter.

    Raises:
        RecordingError: a file is not there.
    """
    try:
        rows = sorted(
            (clip.dataset, clip.file.name, clip.label, clip.recording, clip.fold, _content_of(clip.file))
            for clip in clips
        )
    except OSError as error:
        raise RecordingError(f"{error.filename}: cannot be opened ({error.strerror})") from error
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _content_of(file: Path) -> str:
    about = file.stat()
    return _sha256_as_of(file, about.st_size, about.st_mtime_ns)


@functools.cache  # each fold of a cross-validation asks for the same files
def _sha256_as_of(file: Path, _size: int, _mtime_ns: int) -> str:
    return sha256_of(file)


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
