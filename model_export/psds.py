"""PSDS: how well events can be detected at all, over all thresholds and up to a rate of false alarms.

In: for each scene a table of scores and what is true. Out: one number from 0 to 1.

A detection is relevant if its overlaps with true events of its label are at least `detection_tolerance` of it; any
other one is a false positive, and a cross trigger of each other label that covers at least `cross_tolerance` of it. A
true event is found if relevant detections cover at least `truth_tolerance` of it. The rate of true positives is drawn
over the effective rate of false ones, mean over the labels less `instability_cost` standard deviations; PSDS is the
area below.

Source: Bilen et al., "A framework for the robust evaluation of sound event detection", ICASSP 2020; exact over all
thresholds as in Ebbers et al., "Threshold independent evaluation of sound event detection scores", ICASSP 2022. It is
computed here because of what `sed_scores_eval` brings along (ADR 8). A test holds this against it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.values import FloatArray
from model_export.scenes import Sounding

DECIMALS = 6  # of an overlap in seconds: one that is exactly a tolerance passes
HOUR_S = 3600.0
MAX_VALUES = 1 << 22  # that are looked at at once: stretches by thresholds by true events

Floats = NDArray[np.float64]
Steps = tuple[Floats, Floats]  # thresholds, and by how much a count changes as the threshold falls to each
NEVER_FOUND: tuple[Floats, Floats] = np.empty(0), np.empty(0)  # the curve of a label that has no scores


@dataclass(frozen=True, slots=True)
class Tolerances:
    """What counts as right; fractions from 0 to 1.

    Attributes:
        detection_tolerance: of a detection that has to be true.
        truth_tolerance: of a true event that has to be covered.
        cross_tolerance: of a detection that another label has to cover; None if that does not matter.
        cross_cost: of a cross trigger, beside a false positive.
        instability_cost: of labels that are worse than others.
        max_rate: false positives an hour up to which the area is taken.
    """

    detection_tolerance: float
    truth_tolerance: float
    cross_tolerance: float | None = None
    cross_cost: float = 0.0
    instability_cost: float = 1.0
    max_rate: float = 100.0


# Of DCASE task 4: one that asks for precise times, and one that asks for the right label.
PSDS1 = Tolerances(0.7, 0.7)
PSDS2 = Tolerances(0.1, 0.1, cross_tolerance=0.3, cross_cost=0.5)


@dataclass(frozen=True, slots=True, eq=False)
class ScoredScene:
    """Scores of one scene, and what is true.

    Attributes:
        edges_s: float64 (n + 1,), where the stretches with one score begin, and where the last one ends.
        scores: float32 (n, n_labels).
        soundings: what is true; no two of one label overlap.
    """

    edges_s: Floats
    scores: FloatArray
    soundings: Sequence[Sounding]


def psds(scenes: Sequence[ScoredScene], labels: Sequence[str], tolerances: Tolerances) -> float:
    """The polyphonic sound detection score.

    Args:
        scenes: of all recordings.
        labels: of the scores; labels that never sound are in cross triggers and false positives of no label, and what
            sounds and is none of these is never found.
        tolerances: what counts as right.
    """
    lengths: dict[str, float] = {}  # of all that sounds
    for one in (one for scene in scenes for one in scene.soundings):
        lengths[one.label] = lengths.get(one.label, 0.0) + one.offset_s - one.onset_s
    curves = [
        _curve(scenes, labels.index(label), label, lengths, tolerances) if label in labels else NEVER_FOUND
        for label in lengths
    ]
    return _area(curves, tolerances) if curves else 0.0


def _curve(
    scenes: Sequence[ScoredScene],
    column: int,
    label: str,
    lengths: dict[str, float],
    tolerances: Tolerances,
) -> tuple[Floats, Floats]:
    """The effective rate of false positives of one label, rising, and the largest rate of true ones up to there."""
    duration_s = sum(float(scene.edges_s[-1] - scene.edges_s[0]) for scene in scenes)
    hits: list[Steps] = []
    rates: list[Steps] = []
    others = [other for other in lengths if other != label]
    for scene in scenes:
        thresholds, found, false, crossed = _counts(scene, column, label, others, tolerances)
        rate = false / duration_s
        if tolerances.cross_tolerance is not None and others:
            cross = [count / lengths[other] for other, count in zip(others, crossed, strict=True)]
            rate = rate + tolerances.cross_cost * np.mean(cross, axis=0)
        hits.append((thresholds, np.diff(found, prepend=0.0)))
        rates.append((thresholds, np.diff(rate, prepend=0.0)))
    n_true = sum(one.label == label for scene in scenes for one in scene.soundings)
    thresholds = -np.unique(np.concatenate([-one for one, _ in hits]))  # falling
    found, rate = _summed(hits, thresholds) / n_true, _summed(rates, thresholds) * HOUR_S
    order = np.lexsort((found, rate))
    return rate[order], np.maximum.accumulate(found[order])


def _summed(steps: Sequence[Steps], thresholds: Floats) -> Floats:
    """The sum over scenes of what each has at each of all thresholds, which fall."""
    places = np.searchsorted(-thresholds, -np.concatenate([one for one, _ in steps]))
    changes = np.bincount(places, np.concatenate([change for _, change in steps]), len(thresholds))
    summed: Floats = np.cumsum(changes)
    return np.maximum(0.0, np.round(summed, 12))  # sums of steps up and down do not end at 0 to the last bit


def _counts(
    scene: ScoredScene, column: int, label: str, others: Sequence[str], tolerances: Tolerances
) -> tuple[Floats, Floats, Floats, list[Floats]]:
    """At each threshold, falling: true events found, false positives, cross triggers of each other label."""
    thresholds = np.unique(scene.scores[:, column])[::-1]
    at_once = max(1, MAX_VALUES // (len(scene.scores) * (1 + len(scene.soundings))))
    parts = [
        _counts_at(thresholds[first:][:at_once], scene, column, label=label, others=others, tolerances=tolerances)
        for first in range(0, len(thresholds), at_once)
    ]
    found, false, *crossed = (np.concatenate(part) for part in zip(*parts, strict=True))
    return thresholds.astype(np.float64), found, false, crossed


def _counts_at(
    thresholds: FloatArray,
    scene: ScoredScene,
    column: int,
    *,
    label: str,
    others: Sequence[str],
    tolerances: Tolerances,
) -> list[Floats]:
    """The same at some of the thresholds, one array for each of the counts."""
    is_on = np.pad(scene.scores[:, column] >= thresholds[:, None], ((0, 0), (1, 1)))  # (n_thresholds, n + 2)
    change = np.diff(is_on.astype(np.int8), axis=1)
    at, first = np.nonzero(change == 1)  # in the same order as the ends: each detection one of both
    _, stop = np.nonzero(change == -1)
    starts, stops = scene.edges_s[first], scene.edges_s[stop]  # (n_detections,)
    lengths = stops - starts

    def overlaps(one_label: str) -> Floats:
        """float64 (n_detections, n_events)."""
        events = [one for one in scene.soundings if one.label == one_label]
        onsets, offsets = (np.array([getattr(one, name) for one in events]) for name in ("onset_s", "offset_s"))
        both: Floats = np.minimum(stops[:, None], offsets) - np.maximum(starts[:, None], onsets)
        return np.maximum(0.0, both)

    with_truth = overlaps(label)
    relevant = _reaches(with_truth.sum(axis=1), tolerances.detection_tolerance * lengths)
    false = np.bincount(at[~relevant], minlength=len(thresholds)).astype(np.float64)
    found = np.zeros(len(thresholds))
    for event, one in enumerate(one for one in scene.soundings if one.label == label):
        covered: Floats = np.bincount(at[relevant], with_truth[relevant, event], len(thresholds)).astype(np.float64)
        found += _reaches(covered, np.float64(tolerances.truth_tolerance * (one.offset_s - one.onset_s)))
    crossed = []
    if tolerances.cross_tolerance is not None:
        for other in others:
            crosses = ~relevant & _reaches(overlaps(other).sum(axis=1), tolerances.cross_tolerance * lengths)
            crossed.append(np.bincount(at[crosses], minlength=len(thresholds)).astype(np.float64))
    return [found, false, *crossed]


def _reaches(overlap: Floats, needed: Floats | np.float64) -> NDArray[np.bool_]:
    return np.greater_equal(np.round(overlap, DECIMALS), np.round(needed, DECIMALS))


def _area(curves: Sequence[tuple[Floats, Floats]], tolerances: Tolerances) -> float:
    """Below the mean of the curves less their spread, as stairs."""
    top = tolerances.max_rate
    stairs = np.unique(np.concatenate([[0.0], *(rate[rate <= top] for rate, _ in curves)]))
    heights = np.stack(
        [np.concatenate([[0.0], found])[np.searchsorted(rate, stairs, side="right")] for rate, found in curves]
    )  # (n_labels, n_stairs)
    effective = np.maximum(0.0, heights.mean(axis=0) - tolerances.instability_cost * heights.std(axis=0))
    return float(np.sum(effective * np.diff(stairs, append=top)) / top)
