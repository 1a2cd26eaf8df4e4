"""What cross-validation measured, and its files.

In and out: `crossvalidation.json` (for each fold, system and seed the counts of clips) and, in each fold's folder,
`predictions.csv` (what each system made of each clip). Nothing here needs TensorFlow: others can judge the results.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from agent.errors import UsageError
from agent.values import FloatArray
from model_export.clips import LABELS, URBANSOUND8K_LABELS, Clip

RESULT_NAME = "crossvalidation.json"
PREDICTIONS_NAME = "predictions.csv"
OURS, OURS_FLOAT = "l3-edge int8", "l3-edge float"
COLUMNS = ("system", "seed", "clip", "recording", "label", *LABELS)
DECIMALS = 4  # of a stored likelihood

JudgedClip = tuple[str, str, int, list[float]]  # data set and file name, recording, label's place, likelihoods


@dataclass(frozen=True, slots=True)
class FoldResult:
    """One system on one fold.

    Attributes:
        system: what was tested.
        fold: the fold it had not heard.
        seed: of the run.
        confusion: counts of clips, true label by predicted label, in the order of `LABELS`.
    """

    system: str
    fold: int
    seed: int
    confusion: list[list[int]]

    @property
    def accuracy(self) -> float:
        """Fraction of the clips of street sounds, ESC-10's dogs among them, with the right label."""
        street = np.asarray(self.confusion)[: len(URBANSOUND8K_LABELS)]
        return float(np.trace(street) / street.sum())


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

    @property
    def result(self) -> FoldResult:
        """The counts: a clip's label is its largest likelihood."""
        matrix = np.zeros((len(LABELS), len(LABELS)), np.int64)
        np.add.at(matrix, (self.targets, self.likelihoods.argmax(axis=1)), 1)
        return FoldResult(self.system, self.fold, self.seed, matrix.tolist())


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


def write_results(results: Sequence[FoldResult], file: Path) -> None:
    """Write `crossvalidation.json`."""
    record = [asdict(result) | {"accuracy": round(result.accuracy, 4)} for result in results]
    file.write_text(json.dumps(record) + "\n", encoding="utf-8")


def read_results(file: Path) -> list[FoldResult]:
    """What `write_results` wrote.

    Raises:
        UsageError: the file is not there, or is something else.
    """
    try:
        return TypeAdapter(list[FoldResult]).validate_json(file.read_bytes())
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}; expected what `urbansound-model crossvalidate` writes") from error
    except ValidationError as error:
        raise UsageError(f"{file}: not what `urbansound-model crossvalidate` writes ({_first(error)})") from error


def _first(error: ValidationError) -> str:
    detail = error.errors()[0]
    return f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}".removeprefix(": ")


def write_predictions(runs: Sequence[FoldPredictions], file: Path) -> None:
    """Write one fold's `predictions.csv`: a line for each system, seed and clip."""
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(COLUMNS)
        for run in runs:
            for clip, recording, target, row in zip(
                run.clips, run.recordings, run.targets, run.likelihoods, strict=True
            ):
                writer.writerow([run.system, run.seed, clip, recording, LABELS[target], *row.tolist()])


def read_predictions(file: Path, *, fold: int) -> list[FoldPredictions]:
    """What `write_predictions` wrote.

    Raises:
        UsageError: the file is not there, or is something else.
    """
    runs: dict[tuple[str, int], list[JudgedClip]] = {}
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            reader = csv.reader(lines)
            if tuple(next(reader, ())) != COLUMNS:
                raise UsageError(f"{file}: expected the columns {','.join(COLUMNS)}")
            for row in reader:
                try:
                    judged = _judged_clip(row)
                    runs.setdefault((row[0], int(row[1])), []).append(judged)
                except ValueError as error:
                    raise UsageError(f"{file}, line {reader.line_num}: {error}") from error
    except OSError as error:
        raise UsageError(
            f"{file}: {error.strerror}; run `urbansound-model crossvalidate` again, which writes it without training"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{file}: not CSV ({error})") from error
    return [_joined(system, fold, seed, rows) for (system, seed), rows in runs.items()]


def _judged_clip(row: Sequence[str]) -> JudgedClip:
    if len(row) != len(COLUMNS):
        raise ValueError(f"{len(row)} values, expected {len(COLUMNS)}")
    _, _, clip, recording, label, *values = row
    if label not in LABELS:
        raise ValueError(f"label {label}, expected one of {', '.join(LABELS)}")
    likelihoods = [float(value) for value in values]
    if not all(0.0 <= likelihood <= 1.0 for likelihood in likelihoods):
        raise ValueError(f"likelihoods {','.join(values)}, expected 0 to 1")
    return clip, recording, LABELS.index(label), likelihoods


def _joined(system: str, fold: int, seed: int, rows: Sequence[JudgedClip]) -> FoldPredictions:
    clips, recordings, targets, likelihoods = zip(*rows, strict=True)
    return FoldPredictions(system, fold, seed, clips, recordings, np.array(targets, np.int64), np.array(likelihoods))


def read_folder(folder: Path) -> list[FoldPredictions]:
    """The predictions of every fold that a folder's `crossvalidation.json` speaks of.

    Raises:
        UsageError: a file is missing or is something else, or a fold's predictions are not those that were counted.
    """
    results = read_results(folder / RESULT_NAME)
    if not results:
        raise UsageError(f"{folder / RESULT_NAME}: no fold in it, expected one or more")
    runs = []
    for fold in sorted({result.fold for result in results}):
        file = folder / f"fold{fold}" / PREDICTIONS_NAME
        of_fold = read_predictions(file, fold=fold)
        if [run.result for run in of_fold] != [result for result in results if result.fold == fold]:
            raise UsageError(
                f"{file}: not the predictions counted in {folder / RESULT_NAME}; run `urbansound-model crossvalidate` "
                "again, which makes both without training"
            )
        if any((run.clips, run.recordings) != (of_fold[0].clips, of_fold[0].recordings) for run in of_fold):
            raise UsageError(f"{file}: its systems were tested on different clips, expected the same")
        runs += of_fold
    return runs
