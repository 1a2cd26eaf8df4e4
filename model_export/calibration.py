"""Whether a likelihood can be read as how often it is right.

In: likelihoods and true labels of clips. Out: a `Calibration`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_export.clips import LABELS

N_BINS = 10

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


def calibration_of(likelihoods: Floats, targets: NDArray[np.int64], weights: Floats) -> Calibration:
    """Hold likelihoods against how often they are right, clip by clip, background among them.

    Args:
        likelihoods: float64 (n, n_labels).
        targets: int64 (n,), the true label's place in `LABELS`.
        weights: float64 (n,), how much each row counts.
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
            for index, label in enumerate(LABELS)
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
