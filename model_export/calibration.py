"""Whether a likelihood can be read as how often it is right; and what makes it so.

In: likelihoods and true labels of clips, or what our network made of their windows before softmax or sigmoid. Out: a
`Calibration` (how well likelihoods hold), or a `Rescaling` (what to do about it).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from agent.errors import UsageError
from model_export.files import whole
from model_export.results import DECIMALS, FoldPredictions, FoldWindows, Output, mean_by_clip

CALIBRATION_NAME = "calibration.json"
CALIBRATED = "l3-edge float, calibrated"
N_BINS = 10
SMALLEST = 1e-6  # a likelihood of 0 would be infinitely wrong
# How many recordings speak for leaving all labels as they are, and each label as the others. A label has some thirty of
# its own, and clips of one recording are right or wrong together: too small, and likelihoods get worse on other folds.
PULL_OF_ALL, PULL_OF_EACH = 10.0, 100.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bin:
    """The clips whose likelihood lies between two bounds.

    Attributes:
        lower, upper: the bounds; the lower one belongs to the bin, and 1 to the last.
        clips: how many; a fraction where several runs are averaged.
        likelihood: their mean.
        right: fraction of them for which the label is true.
    """

    lower: float
    upper: float
    clips: float
    likelihood: float
    right: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Whether a clip's likelihood can be read as how often it is right.

    Attributes:
        likelihood: mean of the clips' largest likelihoods; above `right`, the system is too sure of itself.
        right: fraction of the clips, background among them, whose largest likelihood is that of the true label.
        error: expected calibration error of the largest likelihood, 0 to 1.
        bins: the reliability table behind it, without empty bins.
        label_errors: for each label, expected calibration error of that label's likelihood over all clips.

    Source: Guo et al., ICML 2017 (largest likelihood); Nixon et al., CVPR workshops 2019 (each label).
    """

    likelihood: float
    right: float
    error: float
    bins: list[Bin]
    label_errors: dict[str, float]


def calibration_of(
    likelihoods: Floats, targets: NDArray[np.int64], weights: Floats, labels: Sequence[str]
) -> Calibration:
    """Hold likelihoods against how often they are right, clip by clip, background among them.

    Args:
        likelihoods: float64 (n, n_labels).
        targets: int64 (n,), the true label's place in `labels`.
        weights: float64 (n,), how much each row counts.
        labels: what is told apart.
    """
    largest, is_right = likelihoods.max(axis=1), likelihoods.argmax(axis=1) == targets
    bins = reliability(largest, is_right, weights)
    return Calibration(
        likelihood=float(np.average(largest, weights=weights)),
        right=float(np.average(is_right, weights=weights)),
        error=calibration_error(bins),
        bins=bins,
        label_errors={
            label: calibration_error(reliability(likelihoods[:, index], targets == index, weights))
            for index, label in enumerate(labels)
        },
    )


def reliability(likelihoods: Floats, is_right: NDArray[np.bool_], weights: Floats) -> list[Bin]:
    """Clips by likelihood, in `N_BINS` bins of the same width; empty ones are left out.

    Args:
        likelihoods: float64 (n,).
        is_right: bool (n,).
        weights: float64 (n,).
    """
    places = np.minimum((likelihoods * N_BINS).astype(np.int64), N_BINS - 1)
    return [
        Bin(
            lower=place / N_BINS,
            upper=(place + 1) / N_BINS,
            clips=float(weights[places == place].sum()),
            likelihood=float(np.average(likelihoods[places == place], weights=weights[places == place])),
            right=float(np.average(is_right[places == place], weights=weights[places == place])),
        )
        for place in np.unique(places).tolist()
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """How far likelihood and truth are apart, in the mean over the clips: 0 is perfect."""
    gaps = [abs(one.likelihood - one.right) for one in bins]
    return float(np.average(gaps, weights=[one.clips for one in bins]))


@dataclass(frozen=True, slots=True)
class Rescaling:
    """What the last layer's sums are multiplied by and shifted by, so that a likelihood says how often it is right.

    Attributes:
        output: what the network makes of its sums.
        labels: in the order of the numbers.
        scale: for each label, above 0; of softmax all the same, the inverse of its temperature.
        bias: for each label; of softmax all 0, so that no label gains on another.
        folds: which folds it was fitted on; none of their clips were heard in training.
        clips: how many clips those are.
    """

    output: Output
    labels: tuple[str, ...]
    scale: tuple[float, ...]
    bias: tuple[float, ...]
    folds: tuple[int, ...]
    clips: int

    def likelihoods(self, windows: FoldWindows) -> Floats:
        """What the network would make of each clip: float64 (n_clips, n_labels), mean over its windows."""
        sums = windows.sums.astype(np.float64) * self.scale + self.bias
        return mean_by_clip(_activated(sums, self.output), windows.counts)

    def write(self, folder: Path) -> None:
        """Write `calibration.json` beside the trained networks."""
        with whole(folder / CALIBRATION_NAME) as file:
            file.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read_rescaling(folder: Path) -> Rescaling | None:
    """What stands beside the trained networks; None where they are not to be calibrated.

    Raises:
        UsageError: it is damaged.
    """
    file = folder / CALIBRATION_NAME
    if not file.is_file():
        return None
    try:
        stored = json.loads(file.read_bytes())
    except ValueError as error:
        raise UsageError(f"{file}: not JSON ({error}), expected what `calibrate` wrote") from error
    return Rescaling(
        output=stored["output"],
        labels=tuple(stored["labels"]),
        scale=tuple(stored["scale"]),
        bias=tuple(stored["bias"]),
        folds=tuple(stored["folds"]),
        clips=stored["clips"],
    )


def fit(folds: Sequence[FoldWindows]) -> Rescaling:
    """The rescaling under which the true labels of the clips are the most likely.

    A clip's likelihood is the mean over its windows, as the agent sums them; the rescaling is of each window's sums,
    where it can be folded into the network. Softmax has one scale (temperature scaling), sigmoids a scale and a bias
    each (Platt scaling). What all labels have in common is drawn towards 1 and 0, as if `PULL_OF_ALL` recordings had
    asked for that (a normal prior of deviation 1), and what a label has of its own towards what all have, as if
    `PULL_OF_EACH` had: a label of few recordings does not run away.

    Args:
        folds: windows of clips that the network had not heard in training.

    Raises:
        UsageError: there are none.

    Source: Guo et al., ICML 2017 (temperature); Platt 1999 (sigmoids).
    """
    if not folds:
        raise UsageError("no windows to calibrate on: expected the folder that `urbansound-model crossvalidate` wrote")
    output, labels = folds[0].output, folds[0].run.labels
    sums = np.concatenate([fold.sums for fold in folds]).astype(np.float64)  # (n_windows, n_labels)
    counts = np.concatenate([fold.counts for fold in folds])
    truth = np.eye(len(labels))[np.concatenate([fold.run.targets for fold in folds])]  # (n_clips, n_labels)
    n = len(labels)
    # Logarithm of the common scale; for sigmoids the common bias, and what each label adds to these.
    pull = np.array([PULL_OF_ALL] if output == "softmax" else [PULL_OF_ALL] * 2 + [PULL_OF_EACH] * 2 * n)
    pull /= len({recording for fold in folds for recording in fold.run.recordings})

    def rescaled(values: Floats) -> tuple[Floats, Floats]:
        if output == "softmax":
            return np.exp(np.repeat(values, n)), np.zeros(n)
        return np.exp(values[0] + values[2 : 2 + n]), values[1] + values[2 + n :]

    def loss(values: Floats) -> tuple[float, Floats]:
        scale, bias = rescaled(values)
        windows = _activated(sums * scale + bias, output)
        cost, by_likelihood = _log_loss(mean_by_clip(windows, counts), truth, output)
        by_window = np.repeat(by_likelihood / counts[:, None], counts, axis=0)  # (n_windows, n_labels)
        mean = (windows * by_window).sum(axis=1, keepdims=True) if output == "softmax" else windows * by_window
        by_sum = windows * (by_window - mean)
        by_scale, by_bias = (by_sum * sums).sum(axis=0) * scale, by_sum.sum(axis=0)  # of the scale, its logarithm
        slope = [by_scale.sum()] if output == "softmax" else [by_scale.sum(), by_bias.sum(), *by_scale, *by_bias]
        return cost + float(pull @ values**2) / 2, np.array(slope) + pull * values

    found = optimize.minimize(loss, np.zeros_like(pull), jac=True, method="L-BFGS-B")
    scale, bias = rescaled(found.x)
    return Rescaling(
        output=output,
        labels=labels,
        scale=tuple(np.round(scale, 6).tolist()),
        bias=tuple(np.round(bias, 6).tolist()),
        folds=tuple(sorted({fold.run.fold for fold in folds})),
        clips=len(counts),
    )


def _activated(sums: Floats, output: Output) -> Floats:
    likelihoods: Floats = special.softmax(sums, axis=1) if output == "softmax" else special.expit(sums)
    return likelihoods


def _log_loss(likelihoods: Floats, truth: Floats, output: Output) -> tuple[float, Floats]:
    """Mean negative log-likelihood over the clips, and its slope by each likelihood, (n_clips, n_labels)."""
    held = np.clip(likelihoods, SMALLEST, 1.0 - SMALLEST)
    cost, slope = -truth * np.log(held), -truth / held
    if output == "sigmoid":
        cost -= (1.0 - truth) * np.log(1.0 - held)
        slope += (1.0 - truth) / (1.0 - held)
    return float(cost.sum()) / len(truth), slope / len(truth)


def calibrated_runs(folds: Sequence[FoldWindows]) -> list[FoldPredictions]:
    """What our network makes of each fold when calibrated on the other folds; nothing with fewer than two of them."""
    runs = []
    for tested in folds:
        others = [fold for fold in folds if fold.run.fold != tested.run.fold]
        if others:
            likelihoods = np.round(fit(others).likelihoods(tested), DECIMALS)
            runs.append(replace(tested.run, system=CALIBRATED, likelihoods=likelihoods))
    return runs
