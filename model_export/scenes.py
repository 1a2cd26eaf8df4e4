"""Labelled scenes: minutes of a street with a list of what sounds when.

In: a folder with a recording and a TSV file for each scene, as `soundscapes` writes it, or labelled by hand. Out:
`SceneFile`s. The TSV has the columns of sed_eval and DCASE without a head: onset and offset in seconds, label.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.errors import UsageError
from agent.recordings import walk

DECIMALS = 3  # of a time in seconds


@dataclass(frozen=True, slots=True, order=True)
class Sounding:
    """One sound of a scene, as labelled or as detected.

    Attributes:
        onset_s: when it begins, from the start of the scene.
        offset_s: when it ends.
        label: what it is.
    """

    onset_s: float
    offset_s: float
    label: str


@dataclass(frozen=True, slots=True)
class Scene:
    """What is true of a scene.

    Attributes:
        name: of the scene.
        fold: the fold that its recordings are from; None if nobody says.
        group: scenes of different groups have no recording in common.
        soundings: in the order of their onsets.
    """

    name: str
    fold: int | None
    group: str
    soundings: tuple[Sounding, ...]


@dataclass(frozen=True, slots=True)
class SceneFile:
    """A scene and its sound."""

    scene: Scene
    file: Path


def read_scenes(folder: Path, labels: Iterable[str]) -> list[SceneFile]:
    """The scenes of a folder, by name.

    Fold and group are in the JSON that `soundscapes` wrote beside; without it, each scene is a group of its own.

    Args:
        folder: recordings, and `NAME.tsv` beside each.
        labels: what may be in the TSV.

    Raises:
        UsageError: a recording without labels, or a line that is not onset, offset and label.
        RecordingError: no recordings, or the folder cannot be listed.
    """
    files, problems = walk([folder])
    if problems:
        raise problems[0]
    known = tuple(labels)
    scenes = []
    for file in files:
        table, origin = file.with_suffix(".tsv"), file.with_suffix(".json")
        made = json.loads(origin.read_text(encoding="utf-8")) if origin.is_file() else {}
        name = file.relative_to(folder).with_suffix("").as_posix()
        scene = Scene(name, made.get("fold"), made.get("group", name), tuple(sorted(read_soundings(table, known))))
        scenes.append(SceneFile(scene, file))
    return scenes


def read_soundings(table: Path, labels: Sequence[str]) -> list[Sounding]:
    """The lines of a TSV file: onset, offset, label.

    Raises:
        UsageError: no such file, or a line that is something else.
    """
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"{table}: {error.strerror}; expected the labels of the recording beside it") from error
    soundings = []
    for number, line in enumerate(lines, start=1):
        cells = line.split("\t")
        try:
            onset, offset, label = cells
            sounding = Sounding(float(onset), float(offset), label)
        except ValueError:
            raise UsageError(f"{table}, line {number}: {line!r}, expected onset, offset and label") from None
        if label not in labels or not 0.0 <= sounding.onset_s < sounding.offset_s:
            raise UsageError(
                f"{table}, line {number}: {line!r}, expected onset before offset and one of {', '.join(labels)}"
            )
        soundings.append(sounding)
    return soundings


def write_soundings(soundings: Iterable[Sounding], table: Path) -> None:
    """Write onset, offset and label, one a line."""
    lines = [f"{one.onset_s:.{DECIMALS}f}\t{one.offset_s:.{DECIMALS}f}\t{one.label}\n" for one in sorted(soundings)]
    table.write_text("".join(lines), encoding="utf-8")
