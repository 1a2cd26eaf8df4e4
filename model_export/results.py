"""What cross-validation measured, and its file.

In and out: `predictions.csv`, what each system made of each clip of each fold. Nothing here needs TensorFlow: others
can judge the results.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.errors import UsageError
from agent.values import FloatArray
from model_export.clips import LABELS, Clip

PREDICTIONS_NAME = "predictions.csv"
OURS, OURS_FLOAT = "l3-edge int8", "l3-edge float"
COLUMNS = ("fold", "system", "seed", "clip", "recording", "label", *LABELS)
DECIMALS = 4  # of a stored likelihood

Run = tuple[int, str, int]  # fold, system, seed
JudgedClip = tuple[str, str, int, list[float]]  # data set and file name, recording, label's place, likelihoods


@dataclass(frozen=True, slots=True, eq=False)
class FoldPredictions:
    """What one system made of each clip of one fold.

    Attributes:
        system: what was tested.
        fold: the fold it had not heard.
        seed: of the run.
        clips: data set and file name of each clip.
        recordings: the recording that each clip was cut from.
        targets: int64 (n_clips,), the true label's place in `LABELS`.
        likelihoods: float64 (n_clips, n_labels), mean over the clip's windows, rounded to `DECIMALS`.
    """

    system: str
    fold: int
    seed: int
    clips: tuple[str, ...]
    recordings: tuple[str, ...]
    targets: NDArray[np.int64]
    likelihoods: NDArray[np.float64]


def predictions_of(
    clips: Sequence[Clip], likelihoods: FloatArray, counts: Sequence[int], *, system: str, fold: int, seed: int
) -> FoldPredictions:
    """Judge each clip by the sum of its windows' likelihoods, stored as their mean.

    Args:
        clips: the clips that were tested.
        likelihoods: float32 (n_windows, n_labels), the clips one after the other.
        counts: windows of each clip.
        system: what was tested.
        fold: the fold it had not heard.
        seed: of the run.
    """
    starts = np.cumsum([0, *counts[:-1]])
    sums = np.add.reduceat(likelihoods.astype(np.float64), starts, axis=0)  # (n_clips, n_labels)
    return FoldPredictions(
        system=system,
        fold=fold,
        seed=seed,
        clips=tuple(f"{clip.dataset} {clip.file.name}" for clip in clips),
        recordings=tuple(clip.recording for clip in clips),
        targets=np.array([LABELS.index(clip.label) for clip in clips], np.int64),
        likelihoods=np.round(sums / np.asarray(counts)[:, None], DECIMALS),
    )


def write_predictions(runs: Sequence[FoldPredictions], file: Path) -> None:
    """Write `predictions.csv`: a line for each fold, system, seed and clip."""
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(COLUMNS)
        for run in runs:
            for clip, recording, target, row in zip(
                run.clips, run.recordings, run.targets, run.likelihoods, strict=True
            ):
                writer.writerow([run.fold, run.system, run.seed, clip, recording, LABELS[target], *row.tolist()])


def read_predictions(file: Path) -> list[FoldPredictions]:
    """What `write_predictions` wrote.

    Raises:
        UsageError: the file is not there, is something else, or is empty.
    """
    runs: dict[Run, list[JudgedClip]] = {}
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            reader = csv.reader(lines)
            if tuple(next(reader, ())) != COLUMNS:
                raise UsageError(f"{file}: expected the columns {','.join(COLUMNS)}")
            for row in reader:
                try:
                    run, judged = _judged_clip(row)
                except ValueError as error:
                    raise UsageError(f"{file}, line {reader.line_num}: {error}") from error
                runs.setdefault(run, []).append(judged)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}; expected what `urbansound-model crossvalidate` writes") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{file}: not CSV ({error})") from error
    if not runs:
        raise UsageError(f"{file}: no clip in it, expected one or more")
    return [_joined(run, rows) for run, rows in runs.items()]


def _judged_clip(row: Sequence[str]) -> tuple[Run, JudgedClip]:
    if len(row) != len(COLUMNS):
        raise ValueError(f"{len(row)} values, expected {len(COLUMNS)}")
    fold, system, seed, clip, recording, label, *values = row
    if label not in LABELS:
        raise ValueError(f"label {label}, expected one of {', '.join(LABELS)}")
    likelihoods = [float(value) for value in values]
    if not all(0.0 <= likelihood <= 1.0 for likelihood in likelihoods):
        raise ValueError(f"likelihoods {','.join(values)}, expected 0 to 1")
    return (int(fold), system, int(seed)), (clip, recording, LABELS.index(label), likelihoods)


def _joined(run: Run, rows: Sequence[JudgedClip]) -> FoldPredictions:
    fold, system, seed = run
    clips, recordings, targets, likelihoods = zip(*rows, strict=True)
    return FoldPredictions(system, fold, seed, clips, recordings, np.array(targets, np.int64), np.array(likelihoods))
