"""How well events were detected: counts by event, by second, and of false alarms.

In: what sounds in a scene, and what was told. Out: `Counts` for one label, which add up over labels, scenes and folds;
scores are made of the sums, never of scores.

The measures are those of sed_eval (Mesaros, Heittola, Virtanen, "Metrics for Polyphonic Sound Event Detection", Applied
Sciences 2016): events match one to one if their onsets lie within a collar; segments are one second long. They are
computed here because a search counts some hundred thousand times, and because of what sed_eval brings along (ADR 8). A
test holds them against it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_export.scenes import Sounding

COLLAR_S = 1.0
SEGMENT_S = 1.0


@dataclass(frozen=True, slots=True)
class Counts:
    """What was told of one label, or of several.

    Attributes:
        hits: told events that match a true one.
        told: told events.
        true: true events.
        segment_hits: seconds in which it both sounds and is told.
        segments_told: seconds in which it is told.
        segments_true: seconds in which it sounds.
        false_alarms: told events that begin where nothing sounds, whatever their label.
    """

    hits: int = 0
    told: int = 0
    true: int = 0
    segment_hits: int = 0
    segments_told: int = 0
    segments_true: int = 0
    false_alarms: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.hits + other.hits,
            self.told + other.told,
            self.true + other.true,
            self.segment_hits + other.segment_hits,
            self.segments_told + other.segments_told,
            self.segments_true + other.segments_true,
            self.false_alarms + other.false_alarms,
        )

    @property
    def precision(self) -> float:
        """Of the told events, how many are true; 0 where none was told."""
        return self.hits / self.told if self.told else 0.0

    @property
    def recall(self) -> float:
        """Of the true events, how many were told; 0 where there is none."""
        return self.hits / self.true if self.true else 0.0

    @property
    def event_f1(self) -> float:
        """F1 by event; 0 where there is nothing to find and nothing was told."""
        return 2 * self.hits / max(1, self.told + self.true)

    @property
    def segment_f1(self) -> float:
        """F1 by second; 0 likewise."""
        return 2 * self.segment_hits / max(1, self.segments_told + self.segments_true)


def total(counts: Iterable[Counts]) -> Counts:
    """The sum of counts."""
    return sum(counts, Counts())


class Truth:
    """What sounds in a scene, ready to be compared with.

    Args:
        soundings: what is labelled.
        duration_s: of the scene.
    """

    def __init__(self, soundings: Sequence[Sounding], duration_s: float) -> None:
        self._n_segments = math.ceil(duration_s / SEGMENT_S)
        self.labels = {one.label for one in soundings}
        self._onsets = {label: sorted(one.onset_s for one in soundings if one.label == label) for label in self.labels}
        self._rolls = {label: self._roll(one for one in soundings if one.label == label) for label in self.labels}
        self._nothing = np.zeros(self._n_segments, np.bool_)
        # A sound that is told a little early or late is no false alarm.
        self._busy = [(one.onset_s - COLLAR_S, one.offset_s + COLLAR_S) for one in soundings]
        self.event_free_s = _free_s(self._busy, duration_s)

    def counts(self, label: str, told: Sequence[Sounding]) -> Counts:
        """Compare what was told of a label."""
        onsets = self._onsets.get(label, [])
        roll, truth = self._roll(told), self._rolls.get(label, self._nothing)
        return Counts(
            hits=n_matches(onsets, sorted(one.onset_s for one in told)),
            told=len(told),
            true=len(onsets),
            segment_hits=int(np.count_nonzero(roll & truth)),
            segments_told=int(np.count_nonzero(roll)),
            segments_true=int(np.count_nonzero(truth)),
            false_alarms=sum(self.is_free(one.onset_s) for one in told),
        )

    def is_free(self, at_s: float) -> bool:
        """Whether nothing sounds at a moment."""
        return not any(start <= at_s < stop for start, stop in self._busy)

    def errors(self, told: Mapping[str, Sequence[Sounding]]) -> "SegmentErrors":
        """Errors by second over all labels."""
        labels = sorted(self.labels | told.keys())
        if not labels:
            return SegmentErrors()
        true = np.stack([self._rolls.get(label, self._nothing) for label in labels])  # (n_labels, n_segments)
        said = np.stack([self._roll(told.get(label, ())) for label in labels])
        missed = np.count_nonzero(true & ~said, axis=0)
        invented = np.count_nonzero(said & ~true, axis=0)
        return SegmentErrors(
            substituted=int(np.minimum(missed, invented).sum()),
            deleted=int(np.maximum(0, missed - invented).sum()),
            inserted=int(np.maximum(0, invented - missed).sum()),
            true=int(np.count_nonzero(true)),
        )

    def _roll(self, soundings: Iterable[Sounding]) -> NDArray[np.bool_]:
        roll = np.zeros(self._n_segments, np.bool_)
        for one in soundings:
            roll[math.floor(one.onset_s / SEGMENT_S) : math.ceil(one.offset_s / SEGMENT_S)] = True
        return roll


@dataclass(frozen=True, slots=True)
class SegmentErrors:
    """Errors by second, over all labels.

    Attributes:
        substituted: one label told instead of another.
        deleted: a label that was not told.
        inserted: a label that was told and does not sound.
        true: labels that sound.
    """

    substituted: int = 0
    deleted: int = 0
    inserted: int = 0
    true: int = 0

    def __add__(self, other: "SegmentErrors") -> "SegmentErrors":
        return SegmentErrors(
            self.substituted + other.substituted,
            self.deleted + other.deleted,
            self.inserted + other.inserted,
            self.true + other.true,
        )

    @property
    def rate(self) -> float:
        """All errors over what sounds; above 1 if saying nothing would be better."""
        return (self.substituted + self.deleted + self.inserted) / max(1, self.true)


def n_matches(true: Sequence[float], told: Sequence[float], collar_s: float = COLLAR_S) -> int:
    """How many onsets can be matched one to one within the collar, at most. Both are in order.

    >>> n_matches([1.0, 2.0, 9.0], [0.5, 1.5, 5.0])
    2
    """
    matches = i = j = 0
    while i < len(true) and j < len(told):
        if abs(true[i] - told[j]) <= collar_s:
            matches, i, j = matches + 1, i + 1, j + 1
        elif told[j] < true[i]:
            j += 1
        else:
            i += 1
    return matches


def _free_s(busy: Sequence[tuple[float, float]], duration_s: float) -> float:
    free, until = 0.0, 0.0
    for start, stop in sorted(busy):  # what lies between them, and not the rest: that is not 0 to the last bit
        free += max(0.0, min(start, duration_s) - until)
        until = max(until, stop)
    return free + max(0.0, duration_s - until)
