"""Promises of `agent.events`: one occurrence is one event, placed where it was, and ended whatever happens."""

import itertools
import json
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.aggregation import Aggregator
from agent.events import EventDetector
from agent.values import EventRule, FloatArray, Prediction, Segment, SoundEvent

GOLDEN = sorted((Path(__file__).parent / "golden").glob("events_*.json"))

RATE_HZ = 1000  # a sample is a millisecond
WINDOW_S = 1.0
RULE = {"on": 0.5, "off": 0.3, "min_duration_s": 0.3, "merge_gap_s": 0.5, "max_duration_s": 60.0, "span_s": 0.5}


def detector_of(
    labels: Sequence[str] = ("siren",),
    rule: Mapping[str, float] = RULE,
    *,
    onset_response_s: float = 0.25,
    offset_response_s: float = 0.25,
    update_interval_s: float = 10.0,
) -> EventDetector:
    return EventDetector(
        labels=labels,
        rules=dict.fromkeys(labels, EventRule(**{**RULE, **rule})),
        sample_rate_hz=RATE_HZ,
        onset_response_s=onset_response_s,
        offset_response_s=offset_response_s,
        update_interval_s=update_interval_s,
    )


def segments_of(
    likelihoods: FloatArray, *, hop_s: float = 0.1, spans_s: Sequence[float] | None = None, first_sample: int = 0
) -> Iterator[Segment]:
    """The segments of windows with these likelihoods, float32 (n_windows, n_classes)."""
    aggregator = Aggregator(spans_s=spans_s or [RULE["span_s"]] * likelihoods.shape[1], window_hop_s=hop_s)
    for index, values in enumerate(likelihoods):
        onset = first_sample + round(index * hop_s * RATE_HZ)
        yield from aggregator.push(Prediction(values, np.zeros(1, np.float32), onset, round(WINDOW_S * RATE_HZ)))


def timeline(*runs: tuple[float, int]) -> FloatArray:
    """Windows of one class: (likelihood, how many), float32 (n_windows, 1)."""
    return np.repeat(np.array([[value] for value, _ in runs], np.float32), [count for _, count in runs], axis=0)


def push_all(detector: EventDetector, segments: Iterator[Segment]) -> list[SoundEvent]:
    return [event for segment in segments for event in detector.push(segment)]


def heard(likelihoods: FloatArray, rule: Mapping[str, float] = RULE, *, hop_s: float = 0.1) -> list[SoundEvent]:
    """The events of one class, from the stream's beginning to its end."""
    detector = detector_of(rule=rule)
    return [*push_all(detector, segments_of(likelihoods, hop_s=hop_s)), *detector.flush("end_of_stream")]


def network(
    sounds_s: Sequence[tuple[float, float]], *, hop_s: float, length_s: float, noise: float = 0.0
) -> FloatArray:
    """What a network would say: half sure of a window that holds 0.25 s of a sound, and surer the more it holds.

    Args:
        sounds_s: (from, to) of each sound.
        hop_s: from one window to the next; the windows are those of a hop of 0.1 s, thinned out.
        length_s: of the stream.
        noise: standard deviation of what is added to each likelihood.
    """
    begin_s = np.arange(0.0, length_s - WINDOW_S + 1e-6, 0.1)
    held_s = sum(
        np.clip(np.minimum(begin_s + WINDOW_S, to_s) - np.maximum(begin_s, from_s), 0.0, None)
        for from_s, to_s in sounds_s
    )
    likelihoods = 0.95 * held_s**4 / (held_s**4 + 0.25**4) + 0.02
    likelihoods += np.random.default_rng(7).normal(0.0, 1.0, len(begin_s)) * noise
    thinned = np.clip(likelihoods, 0.0, 1.0).astype(np.float32)[:: round(hop_s / 0.1), None]  # (n_windows, 1)
    return np.asarray(thinned)


def times_s(events: Sequence[SoundEvent]) -> list[tuple[float, float]]:
    return [
        (event.onset / RATE_HZ, event.offset / RATE_HZ)
        for event in events
        if event.state == "end" and event.offset is not None
    ]


def as_golden(event: SoundEvent) -> dict[str, Any]:
    shown = {
        "id": event.id,
        "state": event.state,
        "label": event.label,
        "onset_s": event.onset / RATE_HZ,
        "offset_s": None if event.offset is None else event.offset / RATE_HZ,
        "heard_until_s": event.heard_until / RATE_HZ,
        "peak": round(event.likelihood_peak, 6),
        "end_reason": event.end_reason,
    }
    return {name: value for name, value in shown.items() if value is not None}


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem.removeprefix("events_"))
def test_golden_timelines(file: Path) -> None:
    """Each timeline in `tests/golden/` gives the events that stand beside it, and says why.

    Windows of 1 s at a hop of 0.1 s, summed over 0.5 s; a window must hold 0.2 s of a beginning and 0.3 s of an ending
    sound for its likelihood to be half-way. `timeline` is a list of (likelihood, number of windows) for each class.
    """
    golden = json.loads(file.read_text(encoding="utf-8"))
    labels = list(golden["timeline"])
    likelihoods = np.concatenate([timeline(*runs) for runs in golden["timeline"].values()], axis=1)
    detector = detector_of(
        labels,
        golden["rule"],
        onset_response_s=0.2,
        offset_response_s=0.3,
        update_interval_s=golden.get("update_interval_s", 10.0),
    )

    events = [*push_all(detector, segments_of(likelihoods)), *detector.flush(golden["flush"])]

    assert [as_golden(event) for event in events] == golden["expected"], golden["promise"]


@pytest.mark.parametrize("hop_s", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("from_s", [2.0, 2.03, 2.26, 2.41, 2.49])
@pytest.mark.parametrize("lasts_s", [0.8, 1.7, 5.0])
def test_a_sound_is_placed_within_half_a_hop(hop_s: float, from_s: float, lasts_s: float) -> None:
    """Onset and offset are right within half a hop and 0.02 s, wherever the sound lies between two windows."""
    likelihoods = network([(from_s, from_s + lasts_s)], hop_s=hop_s, length_s=10.0)

    ((onset_s, offset_s),) = times_s(heard(likelihoods, hop_s=hop_s))

    assert onset_s == pytest.approx(from_s, abs=hop_s / 2 + 0.02)
    assert offset_s == pytest.approx(from_s + lasts_s, abs=hop_s / 2 + 0.02)


@pytest.mark.parametrize("hop_s", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("from_s", [1.0, 1.28, 1.5, 1.9])
def test_a_sound_that_begins_soon_after_the_stream_was_not_there_before(hop_s: float, from_s: float) -> None:
    """Where the first window holds nothing of it, a sound has its own onset and not the stream's, however low `off`."""
    likelihoods = network([(from_s, from_s + 5.0)], hop_s=hop_s, length_s=10.0)

    ((onset_s, _),) = times_s(heard(likelihoods, {"on": 0.6, "off": 0.1}, hop_s=hop_s))

    assert onset_s == pytest.approx(from_s, abs=hop_s / 2 + 0.02)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_hops_find_the_same_events(noise: float) -> None:
    """Hops of 0.1, 0.2 and 0.5 s find the same events, within half of the longer hop and 0.1 s for the noise."""
    sounds_s = [(3.0, 3.7), (6.13, 9.4), (12.2, 12.9), (14.9, 17.8), (21.0, 33.3)]

    fine, coarse, coarsest = (
        times_s(heard(network(sounds_s, hop_s=hop_s, length_s=40.0, noise=noise), hop_s=hop_s))
        for hop_s in (0.1, 0.2, 0.5)
    )

    np.testing.assert_allclose(fine, sounds_s, atol=0.05 + noise)
    np.testing.assert_allclose(coarse, fine, atol=0.1 + noise)
    np.testing.assert_allclose(coarsest, fine, atol=0.25 + noise)


def test_the_mean_does_not_depend_on_the_hop() -> None:
    """The same sound has the same mean and peak likelihood, however many windows judged it."""
    ends = [
        heard(network([(3.0, 23.0)], hop_s=hop_s, length_s=30.0, noise=0.05), hop_s=hop_s)[-1]
        for hop_s in (0.1, 0.2, 0.5)
    ]

    assert [end.likelihood_mean for end in ends] == pytest.approx([ends[0].likelihood_mean] * 3, abs=0.03)
    assert [end.likelihood_peak for end in ends] == pytest.approx([ends[0].likelihood_peak] * 3, abs=0.06)


def test_peak_and_mean_are_those_of_the_sum_while_it_sounds() -> None:
    """The mean is over the sums from the one that crossed `on` to the last not below `off`; silence is not in it."""
    (*_, end) = heard(timeline((0.0, 20), (0.9, 7), (0.0, 20)), {"min_duration_s": 0.0})

    sums = [0.54, 0.72, 0.9, 0.9, 0.9, 0.72, 0.54, 0.36]
    assert end.likelihood_peak == pytest.approx(0.9)
    assert end.likelihood_mean == pytest.approx(np.mean(sums))


def test_a_cut_event_has_the_likelihoods_of_its_own_time() -> None:
    """Where one event becomes several, each has the mean and the peak of what was summed while it lasted."""
    first, second, *_ = [
        event
        for event in heard(timeline((0.0, 20), (0.9, 40), (0.7, 80), (0.0, 20)), {"max_duration_s": 4.0})
        if event.state == "end"
    ]

    assert [first.end_reason, second.end_reason] == ["max_duration"] * 2
    assert first.likelihood_peak == pytest.approx(0.9)
    assert (second.likelihood_peak, second.likelihood_mean) == pytest.approx((0.7, 0.7))


def test_an_event_as_long_as_the_longest_is_not_cut() -> None:
    """Nothing is left of it that could be another event, not even one without a length."""
    events = heard(timeline((0.9, 41)), {"min_duration_s": 0.0, "max_duration_s": 5.0})

    assert times_s(events) == [(0.0, 5.0)]
    assert events[-1].end_reason == "end_of_stream"


def test_a_flickering_likelihood_is_one_event() -> None:
    """A likelihood that drops out for single windows is one sound, from its first rise to its last fall."""
    flicker = timeline((0.0, 20), *[(0.95, 3), (0.1, 1)] * 10, (0.0, 20))

    ((onset_s, offset_s),) = times_s(heard(flicker))

    assert onset_s == 2.7
    assert offset_s == pytest.approx(5.85 + 0.25, abs=0.05)


def test_classes_without_a_rule_are_never_told() -> None:
    """The background is judged, but is no event."""
    detector = EventDetector(
        labels=["background", "siren"],
        rules={"siren": EventRule(**RULE)},
        sample_rate_hz=RATE_HZ,
        onset_response_s=0.25,
        offset_response_s=0.25,
        update_interval_s=10.0,
    )
    likelihoods = np.concatenate([timeline((0.9, 60)), timeline((0.0, 20), (0.9, 20), (0.0, 20))], axis=1)

    assert {event.label for event in push_all(detector, segments_of(likelihoods))} == {"siren"}


def test_a_class_is_placed_as_if_it_were_alone() -> None:
    """A class that is summed over a short time does not make one that is summed over a long time forget its onset."""
    spans_s = {"dog_bark": 0.1, "siren": 5.0}
    likelihoods = {"dog_bark": timeline((0.0, 160)), "siren": timeline((0.0, 20), (0.9, 80), (0.0, 60))}
    both = np.concatenate(list(likelihoods.values()), axis=1)
    together = push_all(detector_of(list(spans_s)), segments_of(both, spans_s=list(spans_s.values())))

    alone = push_all(detector_of(), segments_of(likelihoods["siren"], spans_s=[spans_s["siren"]]))

    assert times_s(alone) != []
    assert together == alone


def test_each_class_has_its_own_rule() -> None:
    """A threshold that is raised for one class leaves the others as they are."""
    detector = EventDetector(
        labels=["dog_bark", "siren"],
        rules={"dog_bark": EventRule(**RULE), "siren": EventRule(**{**RULE, "on": 0.95})},
        sample_rate_hz=RATE_HZ,
        onset_response_s=0.25,
        offset_response_s=0.25,
        update_interval_s=10.0,
    )
    both = timeline((0.0, 20), (0.9, 20), (0.0, 20)).repeat(2, axis=1)

    assert {event.label for event in push_all(detector, segments_of(both))} == {"dog_bark"}


@pytest.mark.parametrize("lost", [1, 100_000])
@pytest.mark.parametrize("quiet_windows", [0, 20])
def test_after_a_gap_nothing_is_remembered(lost: int, quiet_windows: int) -> None:
    """What was heard before a gap does not place, begin or lengthen an event after it; only the counting goes on."""
    sound = timeline((0.0, quiet_windows), (0.9, 20), (0.0, 20))
    detector = detector_of()
    before = [*push_all(detector, segments_of(timeline((0.9, 30)))), *detector.flush("gap")]
    detector.reset()
    first_sample = before[-1].heard_until + lost

    after = push_all(detector, segments_of(sound, first_sample=first_sample))

    fresh = push_all(detector_of(), segments_of(sound, first_sample=first_sample))
    assert [event.state for event in before] == ["start", "end"]
    assert before[-1].end_reason == "gap"
    assert [(event.onset, event.offset) for event in after] == [(event.onset, event.offset) for event in fresh]
    assert [event.id for event in after] == [1, 1]


def test_the_end_of_a_stream_is_told_once() -> None:
    """Flushing twice does not end an event twice."""
    detector = detector_of()
    push_all(detector, segments_of(timeline((0.9, 30))))

    assert [event.state for event in detector.flush("shutdown")] == ["end"]
    assert list(detector.flush("shutdown")) == []


@pytest.mark.parametrize(("min_duration_s", "times"), [(0.2, [(0.0, 0.2)]), (0.22, [])])
def test_a_recording_shorter_than_a_window_can_be_an_event(
    min_duration_s: float, times: list[tuple[float, float]]
) -> None:
    """A padded short recording that is judged once gives an event as long as the recording, and no longer."""
    detector = detector_of(rule={"min_duration_s": min_duration_s})
    likelihoods = np.array([0.9], np.float32)
    segment = Segment(likelihoods, likelihoods, onsets=np.array([0]), offset=200, newest_onset=0)

    events = [*detector.push(segment), *detector.flush("end_of_stream")]

    assert times_s(events) == times
    assert len(events) == 2 * len(times)


def test_without_a_minimum_duration_a_start_is_told_at_once() -> None:
    """Who cannot wait sets the minimum to 0: the start is told as soon as the sum crosses, 0.5 s into the sound."""
    start, _ = heard(timeline((0.0, 20), (0.9, 22), (0.0, 40)), {"min_duration_s": 0.0})

    assert (start.state, start.onset, start.heard_until) == ("start", 2700, 3200)


def test_a_sound_that_may_still_be_too_short_is_not_told_yet() -> None:
    """No event is told before it is certain that it is as long as the minimum duration, and then at once."""
    short, long = ((0.0, 20), (0.9, 22), (0.0, 40)), ((0.0, 20), (0.9, 24), (0.0, 40))
    rule = {"min_duration_s": 1.75}

    assert heard(timeline(*short), rule) == []
    start, end = heard(timeline(*long), rule)
    assert start.heard_until - start.onset == 1750 + 750  # by a window that holds 250 of the first 1750 samples
    assert times_s([end]) == [(2.7, 4.6)]


def random_likelihoods(rng: np.random.Generator, n_windows: int, n_classes: int) -> FloatArray:
    """Anything a network could say: plateaus, ramps, flicker and noise, float32 (n_windows, n_classes)."""
    targets = rng.choice([0.0, 0.2, 0.4, 0.6, 1.0], (n_windows, n_classes))
    stays = rng.random((n_windows, n_classes)) < rng.choice([0.5, 0.9, 0.97])
    values = np.zeros((n_windows, n_classes))
    for index in range(1, n_windows):
        values[index] = np.where(stays[index], values[index - 1], targets[index])
    values += rng.normal(0.0, rng.choice([0.0, 0.1, 0.3]), values.shape)
    return np.clip(values, 0.0, 1.0).astype(np.float32)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_the_network_says_the_story_is_whole(seed: int) -> None:
    """Every event has one start and then one end, the same onset throughout, and a length within its limits."""
    rng = np.random.default_rng(seed)
    labels = ["car_horn", "dog_bark", "siren"]
    rule = {
        "off": rng.uniform(0.0, 0.5),
        "min_duration_s": rng.choice([0.0, 0.3, 1.0]),
        "merge_gap_s": rng.choice([0.0, 0.5, 3.0]),
        "max_duration_s": rng.choice([1.0, 5.0, 60.0]),
    }
    hop_s = rng.choice([0.1, 0.2, 0.5, 1.0])
    spans_s = rng.choice([0.1, 0.5, 1.0, 3.0], len(labels)).tolist()
    onset_response_s, offset_response_s = rng.choice([0.0, 0.25, 1.5], 2)
    detector = detector_of(
        labels,
        rule,
        onset_response_s=onset_response_s,
        offset_response_s=offset_response_s,
        update_interval_s=1.0,
    )
    events: list[SoundEvent] = []
    for first_sample in (0, 1_000_000):
        n_before = len(events)
        likelihoods = random_likelihoods(rng, 300, len(labels))
        events += push_all(detector, segments_of(likelihoods, hop_s=hop_s, spans_s=spans_s, first_sample=first_sample))
        events += detector.flush("gap")
        detector.reset()
        assert all(event.onset >= first_sample for event in events[n_before:])

    stories = [[event for event in events if event.id == number] for number in {event.id: None for event in events}]
    assert [event.id for event in events if event.state == "start"] == list(range(len(stories)))
    for story in stories:
        assert [event.state for event in story] == ["start", *["update"] * (len(story) - 2), "end"]
        assert len({(event.label, event.onset) for event in story}) == 1
        end = story[-1]
        assert end.offset is not None
        assert rule["min_duration_s"] * RATE_HZ <= end.offset - end.onset <= rule["max_duration_s"] * RATE_HZ
        assert 0 <= end.onset <= end.offset <= end.heard_until
        assert 0.0 <= end.likelihood_mean <= end.likelihood_peak <= 1.0
        heard_until = [event.heard_until for event in story]
        assert heard_until == sorted(heard_until)
    for label in labels:
        ends = [event for event in events if event.label == label and event.state == "end"]
        for earlier, later in itertools.pairwise(ends):
            assert earlier.offset is not None
            assert earlier.offset <= later.onset


# When rules change meanwhile


def siren_rule(**numbers: float) -> dict[str, EventRule]:
    return {"siren": EventRule(**{**RULE, **numbers})}


def test_an_open_event_ends_when_its_rule_changes_and_a_new_one_goes_on() -> None:
    """No event is judged by two rules: what still sounds is a new event from there, without a gap or an overlap."""
    detector = detector_of()
    segments = list(segments_of(timeline((0.0, 10), (0.9, 50), (0.0, 20))))
    before = push_all(detector, iter(segments[:30]))

    ends = detector.change(siren_rule(on=0.6), update_interval_s=10.0)
    after = push_all(detector, iter(segments[30:]))

    assert [event.state for event in before] == ["start"]
    assert [(event.id, event.state, event.end_reason) for event in ends] == [(0, "end", "rule_changed")]
    assert [(event.id, event.state, event.end_reason) for event in after] == [(1, "start", None), (1, "end", "quiet")]
    assert ends[0].offset == ends[0].heard_until == after[0].onset
    assert ends[0].evidence + after[-1].evidence == 5000  # no window is evidence for both


def test_what_is_between_the_new_thresholds_goes_on() -> None:
    """A new event, which has begun at `on`, goes on until the sum is below `off`, as any event."""
    detector = detector_of()
    segments = list(segments_of(timeline((0.0, 10), (0.9, 20), (0.4, 30), (0.0, 20))))
    push_all(detector, iter(segments[:30]))

    detector.change(siren_rule(on=float(segments[29].likelihoods[0])), update_interval_s=10.0)
    start, end = push_all(detector, iter(segments[30:]))

    assert (start.onset, end.end_reason) == (segments[29].offset, "quiet")
    assert (end.offset or 0) > segments[55].newest_onset


def test_what_the_new_rule_does_not_tell_ends() -> None:
    """A threshold raised above what sounds silences it; so does taking the class away."""
    segments = list(segments_of(timeline((0.0, 10), (0.7, 50))))
    for rules in (siren_rule(on=0.8), {}):
        detector = detector_of()
        push_all(detector, iter(segments[:30]))

        ends = detector.change(rules, update_interval_s=10.0)

        assert [event.end_reason for event in ends] == ["rule_changed"]
        assert push_all(detector, iter(segments[30:])) == []
        assert list(detector.flush("shutdown")) == []


def test_a_lowered_threshold_tells_what_sounds_already() -> None:
    """The new rule is in effect from the next window on, and places the onset where the sound began."""
    detector = detector_of(rule={"on": 0.8})
    segments = list(segments_of(timeline((0.0, 10), (0.7, 50))))
    assert push_all(detector, iter(segments[:14])) == []

    assert detector.change(siren_rule(on=0.5), update_interval_s=10.0) == []
    (start, *_) = push_all(detector, iter(segments[14:]))

    assert start.state == "start"
    assert start.onset == pytest.approx(1_000 + RATE_HZ * (WINDOW_S - 0.25), abs=100)


def test_a_new_class_is_told() -> None:
    """A class that had no rule is told from the next window on."""
    detector = EventDetector(
        labels=("siren",),
        rules={},
        sample_rate_hz=RATE_HZ,
        onset_response_s=0.25,
        offset_response_s=0.25,
        update_interval_s=10.0,
    )
    segments = list(segments_of(timeline((0.0, 10), (0.9, 30))))
    assert push_all(detector, iter(segments[:12])) == []

    assert detector.change(siren_rule(), update_interval_s=10.0) == []

    assert [event.state for event in push_all(detector, iter(segments[12:]))] == ["start"]


def test_a_rule_that_stays_cuts_nothing() -> None:
    """A reload that is about something else, or about another class, leaves an open event alone."""
    labels = ["car_horn", "siren"]
    likelihoods = np.repeat(timeline((0.0, 10), (0.9, 50), (0.0, 20)), 2, axis=1)
    segments = list(segments_of(likelihoods))
    detector, left_alone = detector_of(labels), detector_of(labels)
    push_all(detector, iter(segments[:30]))
    expected = push_all(left_alone, iter(segments))

    ends = detector.change(
        {"car_horn": EventRule(**{**RULE, "on": 0.6}), "siren": EventRule(**RULE)}, update_interval_s=10.0
    )
    after = push_all(detector, iter(segments[30:]))

    assert [event.label for event in ends] == ["car_horn"]
    assert [event for event in after if event.label == "siren"] == [
        event for event in expected if event.label == "siren" and event.state == "end"
    ]


def test_another_span_is_another_rule() -> None:
    """The same threshold on another sum is not the same rule."""
    detector = detector_of()
    push_all(detector, segments_of(timeline((0.9, 30))))

    ends = detector.change(siren_rule(span_s=1.0), update_interval_s=10.0)

    assert [event.end_reason for event in ends] == ["rule_changed"]


def test_updates_come_at_the_new_interval() -> None:
    """Another `update_interval_s` ends nothing; from the next update on it counts."""
    detector = detector_of(update_interval_s=2.0)
    segments = list(segments_of(timeline((0.9, 150))))
    before = push_all(detector, iter(segments[:30]))

    ends = detector.change(siren_rule(), update_interval_s=4.0)
    after = push_all(detector, iter(segments[30:]))

    assert ends == []
    assert [event.state for event in before][-1] == "update"
    assert {event.state for event in after} == {"update"}
    assert np.diff([event.heard_until for event in after]).tolist() == [4_000] * (len(after) - 1)
    assert len(after) >= 2


@pytest.mark.parametrize("seed", range(20))
def test_whatever_rules_come_the_story_is_whole(seed: int) -> None:
    """With rules that change at random, every event still has one start and one end, and none overlaps the next."""
    rng = np.random.default_rng(seed)
    labels = ["car_horn", "dog_bark", "siren"]

    def rules() -> dict[str, EventRule]:
        off = rng.uniform(0.0, 0.5)
        return {
            label: EventRule(
                on=rng.uniform(off, 1.0),
                off=off,
                min_duration_s=rng.choice([0.0, 0.3, 1.0]),
                merge_gap_s=rng.choice([0.0, 0.5, 3.0]),
                max_duration_s=rng.choice([1.0, 5.0, 60.0]),
                span_s=0.5,
            )
            for label in labels
            if rng.random() < 0.8
        }

    detector = detector_of(labels, update_interval_s=1.0)
    events: list[SoundEvent] = []
    for segment in segments_of(random_likelihoods(rng, 400, len(labels))):
        if rng.random() < 0.1:
            events += detector.change(rules(), update_interval_s=1.0)
        events += detector.push(segment)
    events += detector.flush("shutdown")

    stories = [[event for event in events if event.id == number] for number in {event.id: None for event in events}]
    assert any(story[-1].end_reason == "rule_changed" for story in stories)
    for story in stories:
        assert [event.state for event in story] == ["start", *["update"] * (len(story) - 2), "end"]
        assert len({(event.label, event.onset) for event in story}) == 1
    for label in labels:
        ends = [event for event in events if event.label == label and event.state == "end"]
        for earlier, later in itertools.pairwise(ends):
            assert earlier.offset is not None
            assert earlier.offset <= later.onset


def test_an_event_of_hours_needs_no_more_memory_than_one_of_seconds() -> None:
    """A jackhammer that works all day does not fill the sensor's memory."""
    detector = detector_of(rule={"max_duration_s": 86_400.0})
    segments = segments_of(timeline((0.9, 10_000)))
    for segment in itertools.islice(segments, 1000):
        list(detector.push(segment))
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()

    for segment in segments:
        list(detector.push(segment))

    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 20_000  # bytes, for a quarter of an hour


# Evidence


@pytest.mark.parametrize("hop_s", [0.1, 0.2, 0.5])
def test_evidence_is_time_and_not_windows(hop_s: float) -> None:
    """A sound of 8 s is evidence for 8 s at every window hop, but for the hop by which its edges may differ."""
    likelihoods = network([(5.0, 13.0)], hop_s=hop_s, length_s=20.0)

    (*_, end) = heard(likelihoods, hop_s=hop_s)

    assert end.evidence / RATE_HZ == pytest.approx(8.5, abs=hop_s)  # half sure from 0.25 s of sound in a window on


def test_evidence_grows_while_the_network_is_sure_and_only_then() -> None:
    """What lies between the thresholds keeps an event open, and is no evidence for it; nor is a pause."""
    likelihoods = timeline((0.0, 20), (0.9, 30), (0.4, 30), (0.9, 30), (0.0, 30))

    told = heard(likelihoods, {"merge_gap_s": 5.0})

    assert told[-1].state == "end"
    assert told[-1].evidence == 6000
    assert [event.evidence for event in told] == sorted(event.evidence for event in told)
    assert 0 < told[0].evidence < 6000


def test_each_event_has_its_own_evidence() -> None:
    """Of two events that follow closely neither has what belongs to the other; nor has what a cut one leaves."""
    apart = timeline((0.0, 20), (0.9, 20), (0.0, 12), (0.9, 30), (0.0, 30))
    ends = [event for event in heard(apart, {"merge_gap_s": 0.2}) if event.state == "end"]
    cut = heard(timeline((0.0, 20), (0.9, 90), (0.0, 30)), {"max_duration_s": 4.0})

    assert [end.evidence for end in ends] == [2000, 3000]
    assert sum(event.evidence for event in cut if event.state == "end") == 9000


@pytest.mark.parametrize(
    "after",
    [
        [(0.0, 8), (0.9, 2), (0.0, 40)],
        [(0.0, 4), (0.9, 2), (0.0, 40)],
        [(0.0, 8), (0.9, 2), (0.0, 3)],
        [(0.0, 3), (0.9, 1)],
    ],
    ids=["pause", "early in the pause", "end of stream in the pause", "end of stream"],
)
def test_what_is_heard_after_its_end_is_no_evidence_for_an_event(after: list[tuple[float, int]]) -> None:
    """A moment in the pause, too short for the event to go on with, is not the event's: however the pause is over."""
    told = heard(timeline((0.0, 20), (0.9, 30), *after), {"merge_gap_s": 2.0})

    assert told[-1].state == "end"
    assert told[-1].evidence == 3000
