"""What cross-validation measured, and its files.

In and out: `predictions.csv` and `esc10.csv`, what each system made of each clip of each fold; `windows.npz`, what our
network made of each window of one fold. Nothing here needs TensorFlow: others can judge the results.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agent.errors import UsageError
from agent.values import FloatArray
from model_export.clips import Clip
from model_export.files import UNREADABLE, whole

PREDICTIONS_NAME, ESC10_NAME, WINDOWS_NAME = "predictions.csv", "esc10.csv", "windows.npz"
FILES = {"us8k": PREDICTIONS_NAME, "esc10": ESC10_NAME}  # by data set
OURS, OURS_FLOAT = "l3-edge int8", "l3-edge float"
COLUMNS = ("fold", "system", "seed", "clip", "recording", "label")  # then one for each label
DECIMALS = 4  # of a stored likelihood

Output = Literal["softmax", "sigmoid"]  # what the last layer makes of its sums

Run = tuple[int, str, int]  # fold, system, seed
JudgedClip = tuple[str, str, int, list[float]]  # data set and file name, recording, label's place, likelihoods


@dataclass(frozen=True, slots=True, eq=False)
class FoldPredictions:
    """What one system made of each clip of one fold.

    Attributes:
        system: what was tested.
        fold: the fold it had not heard.
        seed: of the run.
        labels: what the system tells apart.
        clips: data set and file name of each clip.
        recordings: the recording that each clip was cut from.
        targets: int64 (n_clips,), the true label's place in `labels`.
        likelihoods: float64 (n_clips, n_labels), mean over the clip's windows, rounded to `DECIMALS`.
    """

    system: str
    fold: int
    seed: int
    labels: tuple[str, ...]
    clips: tuple[str, ...]
    recordings: tuple[str, ...]
    targets: NDArray[np.int64]
    likelihoods: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class FoldWindows:
    """What our network in float made of each window of one fold, before softmax or sigmoid.

    Attributes:
        run: the clips of the fold, and what was made of them.
        output: what the network makes of its sums.
        sums: float32 (n_windows, n_labels), the clips one after the other.
        counts: int64 (n_clips,), windows of each clip.
    """

    run: FoldPredictions
    output: Output
    sums: FloatArray
    counts: NDArray[np.int64]


def predictions_of(
    clips: Sequence[Clip],
    likelihoods: FloatArray,
    counts: Sequence[int],
    *,
    labels: tuple[str, ...],
    system: str,
    fold: int,
    seed: int,
) -> FoldPredictions:
    """Judge each clip by the sum of its windows' likelihoods, stored as their mean.

    Args:
        clips: the clips that were tested.
        likelihoods: float32 (n_windows, n_labels), the clips one after the other.
        counts: windows of each clip.
        labels: what the system tells apart; those of the clips are among them.
        system: what was tested.
        fold: the fold it had not heard.
        seed: of the run.
    """
    return FoldPredictions(
        system=system,
        fold=fold,
        seed=seed,
        labels=labels,
        clips=tuple(map(_name_of, clips)),
        recordings=tuple(clip.recording for clip in clips),
        targets=np.array([labels.index(clip.label) for clip in clips], np.int64),
        likelihoods=np.round(mean_by_clip(likelihoods, counts), DECIMALS),
    )


def _name_of(clip: Clip) -> str:
    return f"{clip.dataset} {clip.file.name}"


def mean_by_clip(
    likelihoods: FloatArray | NDArray[np.float64], counts: Sequence[int] | NDArray[np.int64]
) -> NDArray[np.float64]:
    """The mean over each clip's windows, float64 (n_clips, n_labels); the clips' windows follow one another."""
    starts = np.cumsum([0, *counts[:-1]])
    sums = np.add.reduceat(likelihoods.astype(np.float64), starts, axis=0)
    means: NDArray[np.float64] = sums / np.asarray(counts)[:, None]
    return means


def write_predictions(runs: Sequence[FoldPredictions], file: Path) -> None:
    """Write a line for each fold, system, seed and clip; all runs are about the same labels."""
    labels = runs[0].labels if runs else ()
    # Else the half of a table that a full disk leaves would be read as one of fewer clips.
    with whole(file) as partial, partial.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow([*COLUMNS, *labels])
        for run in runs:
            for clip, recording, target, row in zip(
                run.clips, run.recordings, run.targets, run.likelihoods, strict=True
            ):
                writer.writerow([run.fold, run.system, run.seed, clip, recording, labels[target], *row.tolist()])


def read_predictions(file: Path) -> list[FoldPredictions]:
    """What `write_predictions` wrote.

    Raises:
        UsageError: the file is not there, is something else, or is empty.
    """
    runs: dict[Run, list[JudgedClip]] = {}
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            reader = csv.reader(lines)
            head = tuple(next(reader, ()))
            if head[: len(COLUMNS)] != COLUMNS:
                raise UsageError(f"{file}: expected the columns {','.join(COLUMNS)}, and one for each label")
            labels = head[len(COLUMNS) :]
            for row in reader:
                try:
                    run, judged = _judged_clip(row, labels)
                except ValueError as error:
                    raise UsageError(f"{file}, line {reader.line_num}: {error}") from error
                runs.setdefault(run, []).append(judged)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}; expected what `urbansound-model crossvalidate` writes") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{file}: not CSV ({error})") from error
    if not runs:
        raise UsageError(f"{file}: no clip in it, expected one or more")
    return [_joined(run, labels, rows) for run, rows in runs.items()]


def _judged_clip(row: Sequence[str], labels: tuple[str, ...]) -> tuple[Run, JudgedClip]:
    if len(row) != len(COLUMNS) + len(labels):
        raise ValueError(f"{len(row)} values, expected {len(COLUMNS) + len(labels)}")
    fold, system, seed, clip, recording, label, *values = row
    if label not in labels:
        raise ValueError(f"label {label}, expected one of {', '.join(labels)}")
    likelihoods = [float(value) for value in values]
    if not all(0.0 <= likelihood <= 1.0 for likelihood in likelihoods):
        raise ValueError(f"likelihoods {','.join(values)}, expected 0 to 1")
    return (int(fold), system, int(seed)), (clip, recording, labels.index(label), likelihoods)


def _joined(run: Run, labels: tuple[str, ...], rows: Sequence[JudgedClip]) -> FoldPredictions:
    fold, system, seed = run
    clips, recordings, targets, likelihoods = zip(*rows, strict=True)
    return FoldPredictions(
        system, fold, seed, labels, clips, recordings, np.array(targets, np.int64), np.array(likelihoods)
    )


def write_windows(windows: FoldWindows, file: Path) -> None:
    """Write `windows.npz`; the clips are named, and all else about them is in `predictions.csv`."""
    np.savez_compressed(
        file,
        allow_pickle=False,
        output=windows.output,
        clips=np.array(windows.run.clips),
        counts=windows.counts,
        sums=windows.sums.astype(np.float16),
    )


def read_windows(file: Path, run: FoldPredictions) -> FoldWindows:
    """What `write_windows` wrote.

    Args:
        file: `windows.npz`.
        run: what the same network in float made of the same clips.

    Raises:
        UsageError: the file is not there, is something else, or is about other clips.
    """
    try:
        with np.load(file) as stored:
            output, clips, counts, sums = (stored[name] for name in ("output", "clips", "counts", "sums"))
    except UNREADABLE as error:
        raise UsageError(f"{file}: {error}; expected what `urbansound-model crossvalidate` writes") from error
    if tuple(clips.tolist()) != run.clips or sums.shape != (counts.sum(), len(run.labels)):
        raise UsageError(f"{file}: not of the clips and labels of {PREDICTIONS_NAME}, expected of the same run")
    return FoldWindows(run, "sigmoid" if output == "sigmoid" else "softmax", sums.astype(np.float32), counts)


def folder_of(folder: Path, fold: int) -> Path:
    """Where the networks and predictions of a fold stand, in the folder that `crossvalidate` writes."""
    return folder / f"fold{fold}"


def read_all_windows(folder: Path, runs: Sequence[FoldPredictions]) -> list[FoldWindows]:
    """The windows of each fold that has such a file, in the folder that `crossvalidate` wrote.

    Args:
        folder: with one `fold<k>/windows.npz` for each fold; none where only the tables were kept.
        runs: what stands in its `predictions.csv`.

    Raises:
        UsageError: a file is not what it should be.
    """
    files = {run.fold: folder_of(folder, run.fold) / WINDOWS_NAME for run in runs}
    return [
        read_windows(files[run.fold], run) for run in runs if run.system == OURS_FLOAT and files[run.fold].is_file()
    ]
