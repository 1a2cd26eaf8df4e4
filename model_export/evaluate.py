"""Judge what cross-validation measured: how sure the figures are, what is taken for what, and whether likelihoods hold.

In: the predictions of each fold. Out: an `Evaluation`. A system that was run with several seeds counts each clip once,
by the mean over its runs. What is to be told are all labels but `background`: street sounds. A clip's label is the one
with the largest likelihood; likelihoods need not sum to 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from agent.errors import UsageError
from model_export.calibration import Calibration, Floats, calibrated_runs, calibration_of
from model_export.clips import BACKGROUND
from model_export.results import FILES, PREDICTIONS_NAME, FoldPredictions, read_all_windows, read_predictions

N_DRAWS = 2_000
BOOTSTRAP_SEED = 0


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something is so, and how sure that is.

    Attributes:
        value: fraction of the clips.
        clips: how many there are.
        recordings: how many recordings they were cut from.
        binomial_error: standard error if each clip were independent of the others.
        recording_error: standard error by bootstrap over recordings; None with fewer than two of them.
    """

    value: float
    clips: int
    recordings: int
    binomial_error: float
    recording_error: float | None


@dataclass(frozen=True, slots=True)
class SystemFigures:
    """One system.

    Attributes:
        system: its name.
        runs: the most runs, each with a seed of its own, that a fold has.
        accuracy: on each fold's street sounds.
        mean_accuracy: mean over the folds, each counting the same; its errors as of independent folds.
        recall: for each label that was in the test.
        street_missed: street sounds that were taken for background; None where no label is background.
        confusion: (n_labels, n_labels) clips, true label by predicted label; mean over runs.
        calibration: of the likelihoods.
    """

    system: str
    runs: int
    accuracy: dict[int, Rate]
    mean_accuracy: Rate
    recall: dict[str, Rate]
    street_missed: Rate | None
    confusion: list[list[float]]
    calibration: Calibration


@dataclass(frozen=True, slots=True)
class PairedTest:
    """The first system against another on the same recordings: Wilcoxon's signed-rank test, two-sided.

    Attributes:
        system: the other one.
        recordings: how many recordings of street sounds both heard.
        better: on how many of them the first has the higher accuracy.
        worse: on how many of them it has the lower one.
        n: better and worse; the test leaves out those on which both have the same.
        mean_difference: of a recording's accuracies, the first's less the other's, each recording counting once.
        statistic: the smaller sum of ranks.
        p_value: how often chance alone makes the two differ as much.
    """

    system: str
    recordings: int
    better: int
    worse: int
    n: int
    mean_difference: float
    statistic: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All figures about one data set.

    Attributes:
        labels: the order of the confusion matrices.
        systems: in the order in which they were tested, ours first.
        tests: the first system against each other.
    """

    labels: tuple[str, ...]
    systems: list[SystemFigures]
    tests: list[PairedTest]


@dataclass(frozen=True, slots=True, eq=False)
class Judgements:
    """What one system made of the clips of all folds, one row for each clip and run.

    Attributes:
        labels: what the system tells apart.
        folds: int64 (n,).
        recordings: str (n,).
        targets: int64 (n,), the true label's place in `labels`.
        likelihoods: float64 (n, n_labels).
        weights: float64 (n,), those of one clip's runs sum to 1.
    """

    labels: tuple[str, ...]
    folds: NDArray[np.int64]
    recordings: NDArray[np.str_]
    targets: NDArray[np.int64]
    likelihoods: Floats
    weights: Floats

    @property
    def predicted(self) -> NDArray[np.int64]:
        """int64 (n,), the label with the largest likelihood."""
        predicted: NDArray[np.int64] = self.likelihoods.argmax(axis=1)
        return predicted

    @property
    def is_right(self) -> NDArray[np.bool_]:
        """Bool (n,), whether that is the true label."""
        return np.equal(self.predicted, self.targets)

    @property
    def is_street(self) -> NDArray[np.bool_]:
        """Bool (n,), whether the true label is a street sound."""
        return is_told(self.labels)[self.targets]


def is_told(labels: Sequence[str]) -> NDArray[np.bool_]:
    """Bool (n_labels,), which of them are street sounds: all but background."""
    return np.array([label != BACKGROUND for label in labels])


def judgements(runs: Sequence[FoldPredictions]) -> Judgements:
    """The rows of one system's runs on its folds, one after the other."""
    n_runs = {fold: sum(run.fold == fold for run in runs) for fold in {run.fold for run in runs}}
    sizes = [len(run.targets) for run in runs]
    return Judgements(
        labels=runs[0].labels,
        folds=np.repeat([run.fold for run in runs], sizes),
        recordings=np.concatenate([run.recordings for run in runs]),
        targets=np.concatenate([run.targets for run in runs]),
        likelihoods=np.concatenate([run.likelihoods for run in runs]),
        weights=np.repeat([1.0 / n_runs[run.fold] for run in runs], sizes),
    )


def evaluate(runs: Sequence[FoldPredictions]) -> Evaluation:
    """All figures about one data set.

    Args:
        runs: the predictions of each fold, system and seed, the first system's first; on each fold, all systems on the
            same clips.

    Raises:
        UsageError: the systems were not tested on the same clips of the same folds, or a fold has no street sound.
    """
    by_system: dict[str, list[FoldPredictions]] = {}
    for run in runs:
        by_system.setdefault(run.system, []).append(run)
    folds = sorted({run.fold for run in runs})
    for system, its_runs in by_system.items():
        if sorted({run.fold for run in its_runs}) != folds:
            tested = ", ".join(str(fold) for fold in sorted({run.fold for run in its_runs}))
            raise UsageError(f"{system} was tested on fold {tested}, expected all of {', '.join(map(str, folds))}")
    tested_on = {run.fold: (run.clips, run.recordings) for run in runs}
    for run in runs:
        if (run.clips, run.recordings) != tested_on[run.fold]:
            raise UsageError(f"fold {run.fold}: its systems were tested on different clips, expected the same")
        if not is_told(run.labels)[run.targets].any():
            raise UsageError(f"fold {run.fold}: no street sound among its {len(run.targets)} clips, expected some")
    judged = {system: judgements(its_runs) for system, its_runs in by_system.items()}
    first, *others = by_system
    return Evaluation(
        labels=runs[0].labels,
        systems=[_figures(system, judged[system]) for system in by_system],
        tests=[paired_test(system, judged[first], judged[system]) for system in others],
    )


def evaluate_folder(folder: Path) -> dict[str, Evaluation]:
    """All figures of what `crossvalidate` wrote into a folder, by data set.

    Where it kept the windows of all folds, and they are two or more, our network is also judged as it is after
    calibration.

    Raises:
        UsageError: it wrote nothing there, or something that cannot be evaluated.
    """
    evaluations = {}
    for dataset, name in FILES.items():
        if (folder / name).is_file():
            runs = read_predictions(folder / name)
            windows = read_all_windows(folder, runs)
            if {one.run.fold for one in windows} == {run.fold for run in runs}:
                runs += calibrated_runs(windows)
            evaluations[dataset] = evaluate(runs)
    if not evaluations:
        read_predictions(folder / PREDICTIONS_NAME)  # says what is not there
    return evaluations


def _figures(system: str, judged: Judgements) -> SystemFigures:
    labels, street, right = judged.labels, judged.is_street, judged.is_right
    accuracy = {int(fold): _rate(judged, street & (judged.folds == fold), right) for fold in np.unique(judged.folds)}
    recall = {
        label: _rate(judged, judged.targets == index, right)
        for index, label in enumerate(labels)
        if (judged.targets == index).any()
    }
    confusion = np.zeros((len(labels), len(labels)))
    np.add.at(confusion, (judged.targets, judged.predicted), judged.weights)
    return SystemFigures(
        system=system,
        runs=round(1.0 / judged.weights.min()),
        accuracy=accuracy,
        mean_accuracy=_mean_of(list(accuracy.values())),
        recall=recall,
        street_missed=(_rate(judged, street, ~is_told(labels)[judged.predicted]) if BACKGROUND in labels else None),
        confusion=np.round(confusion, 4).tolist(),
        calibration=calibration_of(judged.likelihoods, judged.targets, judged.weights, labels),
    )


def _mean_of(rates: Sequence[Rate]) -> Rate:
    by_recording = [rate.recording_error for rate in rates if rate.recording_error is not None]
    return Rate(
        value=float(np.mean([rate.value for rate in rates])),
        clips=sum(rate.clips for rate in rates),
        recordings=sum(rate.recordings for rate in rates),
        binomial_error=float(np.linalg.norm([rate.binomial_error for rate in rates])) / len(rates),
        recording_error=float(np.linalg.norm(by_recording)) / len(rates) if len(by_recording) == len(rates) else None,
    )


def _rate(judged: Judgements, chosen: NDArray[np.bool_], is_so: NDArray[np.bool_]) -> Rate:
    return rate(is_so[chosen], judged.weights[chosen], judged.recordings[chosen])


def rate(is_so: ArrayLike, weights: ArrayLike, recordings: ArrayLike) -> Rate:
    """A fraction of clips with its standard errors.

    Args:
        is_so: bool (n,).
        weights: float64 (n,), those of one clip's runs sum to 1.
        recordings: str (n,), the recording that each clip was cut from.
    """
    names, index = np.unique(np.asarray(recordings), return_inverse=True)
    clips = np.bincount(index, weights)  # (n_recordings,)
    hits = np.bincount(index, np.asarray(weights) * np.asarray(is_so))
    value = float(hits.sum() / clips.sum())
    recording_error = None
    if len(names) > 1:
        rng = np.random.default_rng(BOOTSTRAP_SEED)
        draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=N_DRAWS)
        recording_error = float(np.std((draws @ hits) / (draws @ clips), ddof=1))
    return Rate(
        value=value,
        clips=round(clips.sum()),
        recordings=len(names),
        binomial_error=float(np.sqrt(value * (1.0 - value) / clips.sum())),
        recording_error=recording_error,
    )


def paired_test(system: str, ours: Judgements, other: Judgements) -> PairedTest:
    """The first against another system, recording by recording of street sounds."""
    differences = _accuracy_by_recording(ours) - _accuracy_by_recording(other)
    differences = np.round(differences, 9)  # means over runs that are equal but for their last bits
    unequal = differences[differences != 0.0]
    statistic, p_value = stats.wilcoxon(unequal) if len(unequal) else (0.0, 1.0)
    return PairedTest(
        system=system,
        recordings=len(differences),
        better=int((differences > 0.0).sum()),
        worse=int((differences < 0.0).sum()),
        n=len(unequal),
        mean_difference=float(differences.mean()),
        statistic=float(statistic),
        p_value=float(p_value),
    )


def _accuracy_by_recording(judged: Judgements) -> Floats:
    """float64 (n_recordings,), in the order of their names."""
    street = judged.is_street
    _, index = np.unique(judged.recordings[street], return_inverse=True)
    weights = judged.weights[street]
    accuracies: Floats = np.bincount(index, weights * judged.is_right[street]) / np.bincount(index, weights)
    return accuracies
