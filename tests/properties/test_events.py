"""The events against a plain reading of their rules: runs of windows, joined over pauses, without the short ones."""

import itertools
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as some

from agent.aggregation import Aggregator
from agent.events import EventDetector
from agent.values import EventRule, Prediction, SoundEvent

RATE_HZ = 1000  # a sample is a millisecond
WINDOW, HOP = 1000, 100
ONSET_RESPONSE, OFFSET_RESPONSE = 250, 300
LONG_S = 80_000.0
GAP = "gap"

rules = some.builds(
    lambda on, below, shortest_s, pause_s, longest_s: EventRule(on, on * below, shortest_s, pause_s, longest_s, 0.5),
    some.floats(0.05, 1.0),
    some.floats(0.0, 1.0),
    some.floats(0.0, 3.0),
    some.floats(0.0, 3.0),
    some.floats(3.0, 20.0),
)


def detector_of(labels: Sequence[str], rule: EventRule, update_interval_s: float = 1.0) -> EventDetector:
    return EventDetector(
        labels=labels,
        rules=dict.fromkeys(labels, rule),
        sample_rate_hz=RATE_HZ,
        onset_response_s=ONSET_RESPONSE / RATE_HZ,
        offset_response_s=OFFSET_RESPONSE / RATE_HZ,
        update_interval_s=update_interval_s,
    )


def window(index: int, likelihoods: Sequence[float]) -> Prediction:
    return Prediction(np.array(likelihoods, np.float32), np.zeros(1, np.float32), index * HOP, WINDOW)


def plain_reading(sounds: Sequence[bool], shortest: int, pause: int) -> list[tuple[int, int]]:
    """(onset, offset) of each event, for likelihoods that are 0 or 1 and a sum of one window."""
    heard_until = (len(sounds) - 1) * HOP + WINDOW
    events: list[tuple[int, int]] = []
    first = 0
    for sounding, run in itertools.groupby(sounds):
        n = len(list(run))
        if sounding:
            # A change lies half-way between two windows; what sounds in the first or last one sounds at the edge.
            onset = 0 if first == 0 else first * HOP + WINDOW - HOP // 2 - ONSET_RESPONSE
            last = first + n
            offset = heard_until if last == len(sounds) else last * HOP - HOP // 2 + OFFSET_RESPONSE
            if events and onset - events[-1][1] <= pause:
                events[-1] = (events[-1][0], offset)
            else:
                events.append((onset, offset))
        first += n
    return [(onset, offset) for onset, offset in events if offset - onset >= shortest]


@given(
    runs=some.lists(some.integers(1, 30), min_size=1, max_size=12),
    sounds_first=some.booleans(),
    shortest=some.integers(1, 1500),
    pause=some.integers(0, 1500),
)
def test_events_are_runs_joined_over_pauses_without_the_short_ones(
    runs: list[int], sounds_first: bool, shortest: int, pause: int
) -> None:
    """Where the network is sure, events are what their rules say in plain words, to the sample."""
    sounds = [sounds_first == (number % 2 == 0) for number, n in enumerate(runs) for _ in range(n)]
    rule = EventRule(0.5, 0.5, shortest / RATE_HZ, pause / RATE_HZ, LONG_S, 0.1)
    detector, aggregator = detector_of(("siren",), rule, LONG_S), Aggregator(spans_s=[0.1], window_hop_s=0.1)

    told = [
        event
        for index, sounding in enumerate(sounds)
        for segment in aggregator.push(window(index, [float(sounding)]))
        for event in detector.push(segment)
    ]
    told += detector.flush("end_of_stream")

    ends = [(event.onset, event.offset) for event in told if event.state == "end"]
    assert ends == plain_reading(sounds, shortest, pause)


steps = some.lists(
    some.tuples(some.floats(0.0, 1.0, width=32), some.floats(0.0, 1.0, width=32)) | some.just(GAP), max_size=120
)


@given(steps=steps, rule=rules, spans_s=some.tuples(*[some.sampled_from([0.1, 0.5, 1.0])] * 2))
def test_whatever_is_heard_each_event_is_told_in_order_and_once(
    steps: list[tuple[float, float] | str], rule: EventRule, spans_s: tuple[float, float]
) -> None:
    """Each event has one start, then updates, then one end; its onset stays, it keeps its limits, none overlap."""
    detector, aggregator = detector_of(("siren", "dog_bark"), rule), Aggregator(spans_s=spans_s, window_hop_s=0.1)
    told: list[SoundEvent] = []
    index = 0
    for step in steps:
        if isinstance(step, str):
            told += detector.flush("gap")
            detector.reset()
            aggregator.reset()
            index += WINDOW // HOP  # the first window after a gap begins after it
        else:
            for segment in aggregator.push(window(index, step)):
                told += detector.push(segment)
        index += 1
    told += detector.flush("end_of_stream")

    ids = [event.id for event in told if event.state == "start"]
    assert ids == list(range(len(ids)))
    by_label: dict[str, list[SoundEvent]] = {"siren": [], "dog_bark": []}
    for number in ids:
        first, *updates, last = (event for event in told if event.id == number)
        assert [first.state, *(event.state for event in updates), last.state] == [
            "start",
            *["update"] * len(updates),
            "end",
        ]
        assert {(event.label, event.onset) for event in (first, *updates, last)} == {(first.label, first.onset)}
        assert last.offset is not None
        # A sample more or less: durations are rounded to samples.
        duration_s = (last.offset - last.onset) / RATE_HZ
        assert rule.min_duration_s - 0.001 <= duration_s <= rule.max_duration_s + 0.001
        # A gap may come before the windows that hold the shortest event.
        assert last.offset <= last.heard_until or duration_s <= rule.min_duration_s + 0.001
        assert 0.0 <= last.likelihood_mean <= last.likelihood_peak <= 1.0
        assert first.likelihood_peak <= last.likelihood_peak
        by_label[first.label].append(last)
    for events in by_label.values():
        for one, other in itertools.pairwise(events):
            assert one.offset is not None
            assert one.offset <= other.onset
