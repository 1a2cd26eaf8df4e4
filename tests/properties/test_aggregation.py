"""The aggregation against a list of all likelihoods and a mean."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as some

from agent.aggregation import Aggregator
from agent.values import Prediction

WINDOW, HOP = 1000, 100
RESET = "reset"

likelihoods = some.tuples(*[some.floats(0.0, 1.0, width=32)] * 3)
wider = some.integers(1, 6)


@given(
    spans_s=some.tuples(*[some.floats(0.05, 3.0)] * 3),
    hop_s=some.sampled_from([0.05, 0.1, 0.25, 1.0]),
    steps=some.lists(likelihoods | wider | some.just(RESET), max_size=60),
)
def test_a_segment_is_the_mean_of_the_newest_windows_since_the_last_gap(
    spans_s: tuple[float, ...], hop_s: float, steps: list[tuple[float, ...] | int | str]
) -> None:
    """However resets and wider hops come between, each class has the mean of those windows that fit into its span."""
    aggregator = Aggregator(spans_s=spans_s, window_hop_s=hop_s)
    past: list[tuple[int, tuple[float, ...]]] = []
    index, factor = 0, 1

    def fitting() -> list[int]:
        return [max(1, math.floor(span_s / (factor * hop_s) + 0.5)) for span_s in spans_s]

    for step in steps:
        if isinstance(step, str):
            aggregator.reset()
            past = []
        elif isinstance(step, int):
            factor = step
            aggregator.widen(factor)
            past = past[-max(fitting()) :]  # what has been let go does not come back when the hop is narrow again
        else:
            index += factor * HOP
            past = [*past, (index, step)][-max(fitting()) :]

            newest = np.array(step, np.float32)
            (segment,) = aggregator.push(Prediction(newest, np.zeros(1, np.float32), index, WINDOW))

            for column, n in enumerate(fitting()):
                mean = np.mean([values[column] for _, values in past[-n:]])
                np.testing.assert_allclose(segment.likelihoods[column], mean, atol=1e-6)
                assert segment.onsets[column] == past[-n:][0][0]
            np.testing.assert_array_equal(segment.newest, newest)
            assert (segment.newest_onset, segment.offset) == (index, index + WINDOW)
            assert segment.likelihoods.max() <= 1.0
    assert list(aggregator.flush()) == []
