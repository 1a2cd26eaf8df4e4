"""Labelled scenes: minutes of a street with a list of what sounds when.

In: a folder with a recording and a TSV file for each scene, as `soundscapes` writes it, or labelled by hand. Out:
`SceneFile`s. The TSV has the columns of sed_eval and DCASE without a head: onset and offset in seconds, label.
"""

import json
import math
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
        UsageError: a recording without labels, a line that is not onset, offset and label, or JSON that is something
            else.
        RecordingError: no recordings, or the folder cannot be listed.
    """
    files, problems = walk([folder])
    if problems:
        raise problems[0]
    known = tuple(labels)
    scenes = []
    for file in files:
        name = file.relative_to(folder).with_suffix("").as_posix()
        fold, group = _origin(file.with_suffix(".json"), name)
        soundings = read_soundings(file.with_suffix(".tsv"), known)
        scenes.append(SceneFile(Scene(name, fold, group, tuple(soundings)), file))
    return scenes


def _origin(file: Path, name: str) -> tuple[int | None, str]:
    """Fold and group of a scene."""
    if not file.is_file():
        return None, name
    try:
        made = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: not JSON ({error})") from error
    fold, group = (made.get("fold"), made.get("group", name)) if isinstance(made, dict) else (None, None)
    if not isinstance(fold, int | None) or not isinstance(group, str):
        raise UsageError(f"{file}: expected a fold and a group, as `urbansound-model soundscapes` writes them")
    return fold, group


def read_soundings(table: Path, labels: Sequence[str]) -> list[Sounding]:
    """The lines of a TSV file: onset, offset, label. Those of one label that overlap are one sound.

    Returns:
        In the order of their onsets.

    Raises:
        UsageError: no such file, not text, or a line that is something else.
    """
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"{table}: {error.strerror}; expected the labels of the recording beside it") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{table}: not UTF-8 text ({error})") from error
    soundings = []
    for number, line in enumerate(lines, start=1):
        cells = line.split("\t")
        try:
            onset, offset, label = cells
            sounding = Sounding(float(onset), float(offset), label)
        except ValueError:
            raise UsageError(f"{table}, line {number}: {line!r}, expected onset, offset and label") from None
        if label not in labels or not 0.0 <= sounding.onset_s < sounding.offset_s < math.inf:
            raise UsageError(
                f"{table}, line {number}: {line!r}, expected onset before offset and one of {', '.join(labels)}"
            )
        soundings.append(sounding)
    return _joined(soundings)


def _joined(soundings: Iterable[Sounding]) -> list[Sounding]:
    """Those of one label that overlap as one; in the order of their onsets."""
    joined: list[Sounding] = []
    for one in sorted(soundings, key=lambda one: (one.label, one.onset_s)):
        if joined and joined[-1].label == one.label and one.onset_s < joined[-1].offset_s:
            before = joined.pop()
            joined.append(Sounding(before.onset_s, max(before.offset_s, one.offset_s), one.label))
        else:
            joined.append(one)
    return sorted(joined)


def write_soundings(soundings: Iterable[Sounding], table: Path) -> None:
    """Write onset, offset and label, one a line."""
    lines = [f"{one.onset_s:.{DECIMALS}f}\t{one.offset_s:.{DECIMALS}f}\t{one.label}\n" for one in sorted(soundings)]
    table.write_text("".join(lines), encoding="utf-8")
