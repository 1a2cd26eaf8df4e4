"""Counts by event, by second and of false alarms, on scenes small enough to be checked in the head."""

import itertools

import numpy as np
import pytest

from model_export.detection import Counts, SegmentErrors, Truth, n_matches, total
from model_export.scenes import Sounding

# A siren from 2 to 5 s, a dog from 4 to 4.5 s; 20 s in all.
STREET = (Sounding(2.0, 5.0, "siren"), Sounding(4.0, 4.5, "dog_bark"))


def siren(onset_s: float, offset_s: float) -> Sounding:
    return Sounding(onset_s, offset_s, "siren")


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        # Nothing was told.
        ([], Counts(true=1, segments_true=3)),
        # As it is.
        ([siren(2.0, 5.0)], Counts(1, 1, 1, 3, 3, 3)),
        # A second late is right, and one second is missed.
        ([siren(3.0, 5.0)], Counts(1, 1, 1, 2, 2, 3)),
        # More than a second late is another event; 3.1 to 5.1 s touches the seconds 3, 4 and 5.
        ([siren(3.1, 5.1)], Counts(0, 1, 1, 2, 3, 3)),
        # In two parts: one is the event, the other one too many.
        ([siren(2.0, 3.0), siren(4.0, 5.0)], Counts(1, 2, 1, 2, 2, 3)),
        # Long after everything: a false alarm.
        ([siren(10.0, 11.0)], Counts(0, 1, 1, 0, 1, 3, false_alarms=1)),
        # Within a second of a sound, it is none.
        ([siren(5.9, 6.5)], Counts(0, 1, 1, 0, 2, 3, false_alarms=0)),
        ([siren(6.0, 6.5)], Counts(0, 1, 1, 0, 1, 3, false_alarms=1)),
    ],
)
def test_counts_of_a_siren(told: list[Sounding], expected: Counts) -> None:
    """What was told of one label against what is true of it."""
    assert Truth(STREET, 20.0).counts("siren", told) == expected


def test_the_last_second_counts_though_it_is_not_whole() -> None:
    """A recording ends where it ends: the siren sounds in the seconds 19 and 20, and is told in the second of them."""
    told = Truth((siren(19.8, 20.3),), 20.5).counts("siren", [siren(20.1, 20.4)])

    assert told == Counts(1, 1, 1, 1, 1, 2)


def test_a_wrong_label_is_no_false_alarm() -> None:
    """Something did sound: it is a mistake of labels, and counts in precision."""
    told = Truth(STREET, 20.0).counts("drilling", [Sounding(3.0, 4.0, "drilling")])

    assert told == Counts(told=1, segments_told=1)


def test_event_free_time_leaves_out_sounds_and_a_second_around_them() -> None:
    """Of 20 s, the street is busy from 1 to 6 s; sounds at the edges do not reach beyond the scene."""
    assert Truth(STREET, 20.0).event_free_s == pytest.approx(15.0)
    assert Truth((siren(0.0, 2.0), siren(19.5, 20.0)), 20.0).event_free_s == pytest.approx(20.0 - 3.0 - 1.5)
    assert Truth((), 20.0).event_free_s == 20.0


def test_where_all_time_is_busy_none_is_free() -> None:
    """Nor 1e-15 s of it, of which an hour's false alarms would be made."""
    assert Truth((siren(0.0, 1.956), siren(3.924, 7.838)), 7.838).event_free_s == 0.0


def test_scores_are_made_of_sums() -> None:
    """Two thirds of what was told is right, half of what is true was told."""
    counts = total([Counts(1, 1, 3, 5, 6, 9), Counts(1, 2, 1, 1, 2, 3)])

    assert counts == Counts(2, 3, 4, 6, 8, 12)
    assert counts.precision == pytest.approx(2 / 3)
    assert counts.recall == pytest.approx(1 / 2)
    assert counts.event_f1 == pytest.approx(4 / 7)
    assert counts.segment_f1 == pytest.approx(12 / 20)


def test_nothing_to_score_is_no_error() -> None:
    """Where nothing sounds and nothing is told there is no score, and no division by zero."""
    nothing = Counts()

    assert (nothing.precision, nothing.recall, nothing.event_f1, nothing.segment_f1) == (0.0, 0.0, 0.0, 0.0)
    assert Truth((), 5.0).errors({}) == SegmentErrors()
    assert SegmentErrors().rate == 0.0


def test_errors_by_second() -> None:
    """A drill for the dog is one substitution; a second of siren is missed; a dog at 10 s is inserted."""
    told = {
        "siren": [siren(2.0, 4.0)],
        "drilling": [Sounding(4.0, 5.0, "drilling")],
        "dog_bark": [Sounding(10.0, 11.0, "dog_bark")],
    }

    errors = Truth(STREET, 20.0).errors(told)

    # In second 4, siren and dog are missed, and the drill is told instead of one of them.
    assert errors == SegmentErrors(substituted=1, deleted=1, inserted=1, true=4)
    assert errors.rate == pytest.approx(3 / 4)


def test_matching_finds_as_many_pairs_as_there_can_be() -> None:
    """No other way to pair onsets within the collar has more pairs."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        true, told = (sorted(rng.uniform(0.0, 6.0, rng.integers(1, 6)).tolist()) for _ in range(2))
        short, long = sorted((true, told), key=len)
        most = max(
            sum(abs(one - other) <= 1.0 for one, other in zip(short, order, strict=True))
            for order in itertools.permutations(long, len(short))
        )

        assert n_matches(true, told) == most
