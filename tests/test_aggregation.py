"""Promises of `agent.aggregation`: a sliding sum in seconds of evidence, exact however long the stream."""

from collections.abc import Sequence

import numpy as np
import pytest

from agent.aggregation import Aggregator
from agent.values import FloatArray, Prediction, Segment

WINDOW = 1000  # samples


def prediction(likelihoods: Sequence[float] | FloatArray, first_sample: int = 0) -> Prediction:
    return Prediction(np.asarray(likelihoods, np.float32), np.zeros(1, np.float32), first_sample, WINDOW)


def segments_of(aggregator: Aggregator, likelihoods: FloatArray, hop: int = 100, first: int = 0) -> list[Segment]:
    return [
        segment
        for index, values in enumerate(likelihoods, start=first)
        for segment in aggregator.push(prediction(values, index * hop))
    ]


def n_windows_of(segment: Segment, hop: int = 100) -> list[int]:
    """How many windows each class was summed over."""
    return [int(n) for n in (segment.newest_onset - segment.onsets) // hop + 1]


@pytest.fixture
def likelihoods() -> FloatArray:
    """float32 (500, 11), each row a distribution over the classes."""
    rows = np.random.default_rng(3).dirichlet(np.full(11, 0.3), 500)
    return rows.astype(np.float32)


@pytest.mark.parametrize(
    ("span_s", "window_hop_s", "n_windows"),
    [
        (1.0, 0.1, 10),
        (1.0, 0.2, 5),
        (1.0, 0.5, 2),
        (0.5, 0.1, 5),
        (0.5, 0.2, 3),
        (0.5, 0.5, 1),
        (0.3, 0.1, 3),
        (0.24, 0.1, 2),
        (0.1, 0.5, 1),
    ],
)
def test_the_span_is_in_seconds(span_s: float, window_hop_s: float, n_windows: int) -> None:
    """The same span is summed at every hop: more windows mean finer steps, not more evidence; one is the least."""
    segments = segments_of(Aggregator(spans_s=[span_s], window_hop_s=window_hop_s), np.ones((30, 1), np.float32))

    assert n_windows_of(segments[-1]) == [n_windows]


def test_a_segment_is_the_mean_of_the_newest_windows(likelihoods: FloatArray) -> None:
    """Likelihoods are summed and divided by their number, and stay between 0 and 1."""
    segments = segments_of(Aggregator(spans_s=[1.0] * 11, window_hop_s=0.1), likelihoods)

    for index, segment in enumerate(segments):
        span = likelihoods[max(0, index - 9) : index + 1]
        np.testing.assert_allclose(segment.likelihoods, span.mean(axis=0), atol=1e-6)
        np.testing.assert_array_equal(segment.newest, likelihoods[index])
        assert n_windows_of(segment) == [len(span)] * 11
        assert 0.0 <= segment.likelihoods.min() <= segment.likelihoods.max() <= 1.0


def test_a_segment_says_which_time_it_covers(likelihoods: FloatArray) -> None:
    """It reaches from the beginning of its oldest window to the end of its newest, from the first window on."""
    segments = segments_of(Aggregator(spans_s=[0.3] * 11, window_hop_s=0.1), likelihoods[:5])

    times = [(int(segment.onsets[0]), segment.newest_onset, segment.offset) for segment in segments]
    assert times == [(0, 0, 1000), (0, 100, 1100), (0, 200, 1200), (100, 300, 1300), (200, 400, 1400)]


def test_the_sum_does_not_drift(likelihoods: FloatArray) -> None:
    """After twenty thousand windows, the same windows give the same segment to the last bit."""
    old, fresh = (Aggregator(spans_s=[1.0] * 11, window_hop_s=0.1) for _ in range(2))
    for _ in range(40):
        segments_of(old, likelihoods)

    after_an_hour, at_first = segments_of(old, likelihoods[:20])[-1], segments_of(fresh, likelihoods[:20])[-1]

    assert after_an_hour.likelihoods.tobytes() == at_first.likelihoods.tobytes()


def test_after_a_gap_the_sum_starts_afresh(likelihoods: FloatArray) -> None:
    """No window from before a gap is in a segment after it."""
    aggregator = Aggregator(spans_s=[1.0] * 11, window_hop_s=0.1)
    segments_of(aggregator, likelihoods[:50])

    aggregator.reset()

    (first,) = aggregator.push(prediction(likelihoods[50], 90_000))
    assert set(first.onsets) == {90_000}
    np.testing.assert_array_equal(first.likelihoods, likelihoods[50])


def test_the_span_stays_the_same_when_the_hop_is_widened(likelihoods: FloatArray) -> None:
    """As many windows as fit into the span are summed, the newest ones, before and after."""
    aggregator = Aggregator(spans_s=[1.0] * 11, window_hop_s=0.1)
    segments_of(aggregator, likelihoods[:30])

    aggregator.widen(4)
    (wide,) = aggregator.push(prediction(likelihoods[30], 3000))
    aggregator.widen(1)
    narrow = segments_of(aggregator, likelihoods[31:60])[-1]

    assert set(wide.onsets) == {2800}
    np.testing.assert_allclose(wide.likelihoods, likelihoods[28:31].mean(axis=0), atol=1e-6)
    assert set(n_windows_of(narrow)) == {10}


def test_each_class_has_a_span_of_its_own(likelihoods: FloatArray) -> None:
    """A class that is summed over a short time is not slowed down by one that is summed over a long one."""
    spans_s = [0.2, 1.0, *[0.5] * 9]
    segments = segments_of(Aggregator(spans_s=spans_s, window_hop_s=0.1), likelihoods[:40])

    for column, span_s in enumerate(spans_s):
        alone = segments_of(Aggregator(spans_s=[span_s] * 11, window_hop_s=0.1), likelihoods[:40])
        for together, apart in zip(segments, alone, strict=True):
            assert together.likelihoods[column] == apart.likelihoods[column]
            assert together.onsets[column] == apart.onsets[column]


def test_other_spans_count_from_the_next_window_on(likelihoods: FloatArray) -> None:
    """A shorter span forgets at once, a longer one fills up; the spans of other classes stay as they are."""
    aggregator = Aggregator(spans_s=[1.0] * 11, window_hop_s=0.1)
    segments_of(aggregator, likelihoods[:20])

    aggregator.set_spans([0.5] * 10 + [0.3])
    shorter = segments_of(aggregator, likelihoods[20:25], first=20)
    aggregator.set_spans([0.8] * 10 + [0.3])
    longer = segments_of(aggregator, likelihoods[25:30], first=25)

    assert [n_windows_of(segment)[0] for segment in shorter] == [5] * 5
    assert [n_windows_of(segment)[0] for segment in longer] == [6, 7, 8, 8, 8]
    assert {n_windows_of(segment)[-1] for segment in (*shorter, *longer)} == {3}
    np.testing.assert_allclose(longer[-1].likelihoods[:10], likelihoods[22:30, :10].mean(axis=0), atol=1e-6)


def test_other_spans_stay_in_seconds_while_the_hop_is_wide(likelihoods: FloatArray) -> None:
    """A span that is set while windows come four hops apart is that long then, and when they come at each hop again."""
    aggregator = Aggregator(spans_s=[1.0] * 11, window_hop_s=0.1)
    aggregator.widen(4)

    aggregator.set_spans([2.0] * 11)
    wide = segments_of(aggregator, likelihoods[:10])[-1]
    aggregator.widen(1)
    narrow = segments_of(aggregator, likelihoods[10:40], first=10)[-1]

    assert set(n_windows_of(wide)) == {5}
    assert set(n_windows_of(narrow)) == {20}


def test_nothing_is_held_back(likelihoods: FloatArray) -> None:
    """Each window gives its segment at once, so the end of a stream adds none."""
    aggregator = Aggregator(spans_s=[1.0] * 11, window_hop_s=0.1)

    assert len(segments_of(aggregator, likelihoods)) == len(likelihoods)
    assert list(aggregator.flush()) == []


def test_a_segment_cannot_be_written_to() -> None:
    """What was handed on is read-only."""
    (segment,) = Aggregator(spans_s=[1.0] * 2, window_hop_s=0.1).push(prediction([0.1, 0.9]))

    with pytest.raises(ValueError, match="read-only"):
        segment.likelihoods[0] = 1.0
