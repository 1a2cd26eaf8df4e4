"""Promises of `agent.pipeline`: one loop for microphone and recording, the same events however the sound arrives."""

import csv
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from agent.aggregation import Aggregator
from agent.errors import AgentError, RecordingError
from agent.events import EventDetector
from agent.frontend import FrontEnd
from agent.inference import Classifier
from agent.level import Levels
from agent.model_card import EventNumbers, ModelFolder, event_rules
from agent.pipeline import predictions, run, run_judged
from agent.values import AudioBlock, EndReason, EventRule, FloatArray, LevelReading, Prediction, SoundEvent, Window
from tests.test_frontend import NUMBERS

RULE = EventRule(on=0.5, off=0.3, min_duration_s=0.3, merge_gap_s=0.5, max_duration_s=60.0, span_s=0.5)


class ToneClassifier(Classifier):
    """Hears a tone where the level is high, and is half sure of it when a quarter of the window holds it."""

    def __init__(self) -> None:
        pass

    def predict_all(self, windows: Sequence[Window]) -> list[Prediction]:
        return [self._judged(window) for window in windows]

    def _judged(self, window: Window) -> Prediction:
        held = np.mean(window.log_mel.max(axis=1) > -40.0)  # of the window
        likelihood = held**4 / (held**4 + 0.25**4)
        likelihoods = np.array([likelihood, 1.0 - likelihood], np.float32)
        return Prediction(likelihoods, np.zeros(1, np.float32), window.first_sample, window.n_samples)


class Listener:
    """The stages for tones, and all that they told."""

    def __init__(self, rate_hz: int, *, window_hop_s: float = 0.1) -> None:
        self.front_end = FrontEnd(NUMBERS, capture_rate_hz=rate_hz, window_hop_s=window_hop_s)
        self.classifier: Classifier = ToneClassifier()
        self.aggregator = Aggregator(spans_s=[RULE.span_s] * 2, window_hop_s=window_hop_s)
        self.detector = EventDetector(
            labels=["tone", "background"],
            rules={"tone": RULE},
            sample_rate_hz=rate_hz,
            onset_response_s=0.25,
            offset_response_s=0.25,
            update_interval_s=10.0,
        )
        self.levels = Levels(rate_hz, keep_s=60.0)
        self.events: list[SoundEvent] = []
        self.judged: list[Prediction] = []
        self.analysed: list[int] = []
        self.measured: list[LevelReading] = []

    def hear(
        self, blocks: Iterable[AudioBlock], end_reason: Callable[[], EndReason] = lambda: "end_of_stream"
    ) -> list[SoundEvent]:
        run(
            blocks,
            self.front_end,
            self.classifier,
            self.aggregator,
            self.detector,
            self.events.append,
            levels=self.levels,
            end_reason=end_reason,
            analysed=self.analysed.append,
            judged=self.judged.append,
            measured=self.measured.extend,
        )
        return self.events


def tones(*sounds_s: tuple[float, float], length_s: float, rate_hz: int = 16_000) -> FloatArray:
    """A tone of 1 kHz in each (from, to), faint noise elsewhere."""
    times_s = np.arange(round(length_s * rate_hz)) / rate_hz
    sounding = np.any([(times_s >= from_s) & (times_s < to_s) for from_s, to_s in sounds_s], axis=0)
    noise = np.random.default_rng(2).normal(0.0, 1e-4, len(times_s))
    samples: FloatArray = (noise + 0.5 * sounding * np.sin(2 * np.pi * 1000.0 * times_s)).astype(np.float32)
    return samples


def blocks_of(samples: FloatArray, block_samples: int = 1600, first_sample: int = 0) -> Iterator[AudioBlock]:
    for start in range(0, len(samples), block_samples):
        yield AudioBlock(samples[start : start + block_samples], first_sample + start)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("window_hop_s", [0.1, 0.2, 0.5])
def test_sound_becomes_events(rate_hz: int, window_hop_s: float) -> None:
    """Two tones are two events, placed within half a hop and 0.05 s, in samples of the capture rate."""
    samples = tones((2.0, 4.3), (7.13, 7.9), length_s=11.0, rate_hz=rate_hz)

    events = Listener(rate_hz, window_hop_s=window_hop_s).hear(blocks_of(samples))

    ends = [event for event in events if event.state == "end"]
    times_s = [(event.onset / rate_hz, (event.offset or 0) / rate_hz) for event in ends]
    np.testing.assert_allclose(times_s, [(2.0, 4.3), (7.13, 7.9)], atol=window_hop_s / 2 + 0.05)
    assert [event.state for event in events] == ["start", "end"] * 2


@pytest.mark.parametrize("block_samples", [1, 17, 160, 4801])
def test_events_do_not_depend_on_the_block_size(block_samples: int) -> None:
    """The same sound gives the same events, to the last sample, however it is sliced."""
    samples = tones((1.0, 2.3), (4.0, 6.0), length_s=6.0)

    actual = Listener(16_000).hear(blocks_of(samples, block_samples))

    assert actual == Listener(16_000).hear(blocks_of(samples, len(samples)))
    assert len(actual) == 4


def test_what_is_measured_is_handed_on() -> None:
    """Every slice once, in order, whatever the blocks; after a gap they begin anew with the first sample."""
    listener = Listener(16_000)
    silence = np.zeros(16_000, np.float32)

    listener.hear([*blocks_of(silence, 4_801), AudioBlock(silence, 24_000, lost_before=8_000)])

    assert [reading.first_sample for reading in listener.measured] == [
        *range(0, 16_000, 2_000),
        *range(24_000, 40_000, 2_000),
    ]


def test_events_say_how_loud_they_were() -> None:
    """A tone at half of full scale is 6 dB below it, in whichever state it is told; the noise before is far below."""
    events = Listener(16_000).hear(blocks_of(tones((15.0, 18.0), length_s=20.0)))

    assert [event.state for event in events] == ["start", "end"]
    for event in events:
        assert event.level is not None
        assert event.level.background is not None
        assert 10 * np.log10(2 * event.level.mean_square) == pytest.approx(-6.0, abs=0.3)
        assert 10 * np.log10(2 * event.level.background) < -70.0


def test_levels_begin_afresh_after_a_gap() -> None:
    """What was loud before is no part of what is heard after it; what was open before it has its level as well."""
    samples = tones((1.0, 5.0), length_s=25.0)
    gap = replace(AudioBlock(samples[4 * 16_000 :], 4 * 16_000), lost_before=8_000)

    events = Listener(16_000).hear([*blocks_of(samples[: 4 * 16_000 - 8_000]), gap])

    cut, rest = (event.level for event in events if event.state == "end")
    assert cut is not None
    assert rest is not None
    assert (cut.background, rest.background) == (None, None)
    assert 10 * np.log10(2 * cut.mean_square) == pytest.approx(-6.0, abs=0.3)


def test_a_gap_ends_what_is_open_and_begins_afresh() -> None:
    """A tone over a gap is two events: one until the gap, one from where the stream goes on; never a splice."""
    samples = tones((2.0, 6.0), length_s=8.0)
    gap_first, gap_end = 4 * 16_000, 5 * 16_000
    before = list(blocks_of(samples[:gap_first]))
    after = list(blocks_of(samples[gap_end:], first_sample=gap_end))
    after[0] = replace(after[0], lost_before=gap_end - gap_first)

    events = Listener(16_000).hear([*before, *after])

    ends = [event for event in events if event.state == "end"]
    assert [event.end_reason for event in ends] == ["gap", "quiet"]
    assert ends[0].offset == gap_first
    assert ends[1].onset == gap_end
    apart = [*Listener(16_000).hear(before), *Listener(16_000).hear(after)]
    assert [(event.onset, event.offset) for event in events] == [(event.onset, event.offset) for event in apart]
    assert [event.id for event in ends] == [0, 1]


def test_pieces_shorter_than_a_window_between_gaps_are_judged() -> None:
    """When sound is lost again and again, what arrives in between is still heard, and dated where it was."""
    samples = tones((0.0, 10.0), length_s=10.0)
    blocks = [
        AudioBlock(samples[first : first + 8000], first, lost_before=8000 if first else 0)
        for first in range(0, 160_000, 16_000)
    ]
    listener = Listener(16_000)

    events = listener.hear(blocks)

    assert [(window.first_sample, window.n_samples) for window in listener.judged] == [
        (block.first_sample, 8000) for block in blocks
    ]
    ends = [event for event in events if event.state == "end"]
    assert [(event.onset, event.offset) for event in ends] == [
        (first, first + 8000) for first in range(0, 160_000, 16_000)
    ]


@pytest.mark.parametrize("reason", ["end_of_stream", "shutdown"])
def test_an_open_event_ends_with_the_stream(reason: EndReason) -> None:
    """At the end of a recording and at shutdown an open event ends, and says why."""
    (*_, end) = Listener(16_000).hear(blocks_of(tones((2.0, 5.0), length_s=5.0)), end_reason=lambda: reason)

    assert (end.state, end.end_reason, end.offset) == ("end", reason, 5 * 16_000)


def test_the_end_reason_is_asked_at_the_end() -> None:
    """Why a stream ended is known only when it has."""
    stopped = False

    def until_stopped() -> Iterator[AudioBlock]:
        nonlocal stopped
        yield from blocks_of(tones((2.0, 5.0), length_s=5.0))
        stopped = True

    (*_, end) = Listener(16_000).hear(until_stopped(), end_reason=lambda: "shutdown" if stopped else "end_of_stream")

    assert end.end_reason == "shutdown"


def test_an_open_event_ends_when_the_recording_breaks() -> None:
    """A recording that cannot be read to its end still ends what it started; then its error goes on."""

    def breaking() -> Iterator[AudioBlock]:
        yield from blocks_of(tones((2.0, 5.0), length_s=5.0))
        raise RecordingError("street.wav: truncated")

    listener = Listener(16_000)

    with pytest.raises(RecordingError, match="truncated"):
        listener.hear(breaking())

    assert [event.state for event in listener.events] == ["start", "end"]


def test_an_open_event_ends_when_who_judges_breaks() -> None:
    """The same holds where other processes judge a recording."""
    listener = Listener(16_000)

    def breaking() -> Iterator[Prediction]:
        yield from predictions(blocks_of(tones((2.0, 5.0), length_s=5.0)), listener.front_end, listener.classifier)
        raise RecordingError("street.wav: truncated")

    with pytest.raises(RecordingError, match="truncated"):
        run_judged(breaking(), listener.aggregator, listener.detector, listener.events.append, levels=listener.levels)

    assert [event.state for event in listener.events] == ["start", "end"]


def test_an_error_of_the_receiver_stops_the_loop() -> None:
    """When events cannot be taken, the agent stops with that error instead of dropping them."""
    listener = Listener(16_000)

    def refuse(event: SoundEvent) -> None:
        raise AgentError(f"no room for {event.label}")

    with pytest.raises(AgentError, match="no room for tone"):
        run(
            blocks_of(tones((2.0, 5.0), length_s=8.0)),
            listener.front_end,
            listener.classifier,
            listener.aggregator,
            listener.detector,
            refuse,
            levels=listener.levels,
        )


def test_a_short_recording_is_judged_once() -> None:
    """A recording of 0.4 s is judged once, padded; its event is as long as the recording."""
    listener = Listener(16_000)

    events = listener.hear(blocks_of(tones((0.0, 0.4), length_s=0.4), 100))

    assert [(window.first_sample, window.n_samples) for window in listener.judged] == [(0, 6400)]
    assert [(event.state, event.onset, event.offset) for event in events] == [("start", 0, None), ("end", 0, 6400)]


def test_no_sound_no_events() -> None:
    """An empty stream is not an error."""
    listener = Listener(16_000)

    assert listener.hear([]) == []
    assert listener.judged == []


def test_progress_is_told_after_each_block() -> None:
    """Health sees up to which sample the sound is analysed, and never more than has been."""
    listener = Listener(16_000)
    blocks = list(blocks_of(tones(length_s=3.05), 1000, first_sample=500))

    listener.hear(blocks)

    assert listener.analysed == [block.first_sample + len(block.samples) for block in blocks]


def test_each_window_is_judged_before_its_events_are_told() -> None:
    """Who watches the windows has seen all that an event is made of when the event comes."""
    listener = Listener(16_000)
    seen: list[int] = []

    def emit(event: SoundEvent) -> None:
        newest = listener.judged[-1]
        seen.append(newest.first_sample + newest.n_samples - event.heard_until)

    run(
        blocks_of(tones((2.0, 4.0), length_s=8.0)),
        listener.front_end,
        listener.classifier,
        listener.aggregator,
        listener.detector,
        emit,
        levels=listener.levels,
        judged=listener.judged.append,
    )

    assert seen == [0, 0]


def test_the_stages_can_be_used_for_the_next_stream() -> None:
    """After a stream nothing of it is left in the stages, but that events are counted on."""
    samples = tones((2.0, 4.3), length_s=5.0)
    listener = Listener(16_000)

    first, second = list(listener.hear(blocks_of(samples))), listener.hear(blocks_of(samples))[2:]

    assert second == [replace(event, id=1) for event in first]


@pytest.mark.parametrize("lost", [0, 8000])
def test_classifying_and_detecting_judge_the_same_windows(lost: int) -> None:
    """`predictions` gives exactly the windows that `run` makes its events of, over gaps too."""
    blocks = list(blocks_of(tones((2.0, 4.3), length_s=5.3)))
    blocks[30:] = [replace(block, first_sample=block.first_sample + lost) for block in blocks[30:]]
    blocks[30] = replace(blocks[30], lost_before=lost)
    listener = Listener(16_000)
    listener.hear(blocks)

    alone = predictions(blocks, Listener(16_000).front_end, ToneClassifier())

    assert [(window.first_sample, window.likelihoods.tobytes()) for window in alone] == [
        (window.first_sample, window.likelihoods.tobytes()) for window in listener.judged
    ]


def test_recordings_can_be_classified_one_after_the_other() -> None:
    """A front end that has given all windows of one recording knows nothing of it in the next."""
    samples, listener = tones((1.0, 2.3), length_s=3.05), Listener(16_000)

    first, second = (
        [
            (prediction.first_sample, prediction.likelihoods.tobytes())
            for prediction in predictions(blocks_of(samples), listener.front_end, listener.classifier)
        ]
        for _ in range(2)
    )

    assert first == second


@pytest.fixture(scope="module")
def street(recordings: Path) -> tuple[FloatArray, int]:
    """Two recordings of each class of UrbanSound8K, at one level, with 3 s of near silence between; and their rate."""
    rate_hz = 22_050
    clips: dict[str, dict[str, Path]] = {}  # by class, then by the recording that they were cut from
    with (recordings / "urbansound8k" / "metadata.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["fold"] == "1" and row["salience"] == "1" and float(row["duration"]) > 2.0:
                clips.setdefault(row["class"], {})[row["fsID"]] = recordings / "urbansound8k" / row["file"]
    silence = np.zeros(3 * rate_hz, np.float32)
    parts = [silence]
    for clip in (clip for of_class in clips.values() for clip in list(of_class.values())[:2]):
        samples, its_rate_hz = soundfile.read(clip, dtype="float32")
        assert its_rate_hz == rate_hz
        parts += [samples * 0.1 / np.sqrt(np.mean(samples**2)), silence]
    scene = np.concatenate(parts)
    scene += np.random.default_rng(0).normal(0.0, 1e-3, len(scene)).astype(np.float32)
    return np.clip(scene, -1.0, 1.0), rate_hz


def heard_by(
    model: ModelFolder,
    blocks: Iterable[AudioBlock],
    rate_hz: int,
    window_hop_s: float,
    numbers: EventNumbers = EventNumbers(),  # noqa: B008  frozen
) -> list[SoundEvent]:
    """The events that the model's card makes of a stream, with these numbers of the site's."""
    card = model.card
    rules = event_rules(card.events, card.labels, numbers, {})
    events: list[SoundEvent] = []
    run(
        blocks,
        FrontEnd(card.front_end, capture_rate_hz=rate_hz, window_hop_s=window_hop_s),
        Classifier(model),
        Aggregator(spans_s=[rules[label].span_s for label in card.labels], window_hop_s=window_hop_s),
        EventDetector(
            labels=card.labels,
            rules={label: rule for label, rule in rules.items() if label != card.background_label},
            sample_rate_hz=rate_hz,
            onset_response_s=card.events.onset_response_s,
            offset_response_s=card.events.offset_response_s,
            update_interval_s=10.0,
        ),
        events.append,
        levels=Levels(rate_hz, keep_s=60.0),
    )
    return events


def test_hops_find_the_same_events_in_real_sound(model: ModelFolder, street: tuple[FloatArray, int]) -> None:
    """Hops of 0.1, 0.2 and 0.5 s find the same clear events in real recordings.

    Clear is an event of 1 s or more whose peak lies 0.15 above its threshold. Each has an event of its class beside it
    at every other hop, and of their onsets and offsets nine in ten agree within half of the longer hop and 0.05 s. (Not
    all: a sound that comes and goes within a second can be one event at a fine hop and a shorter one at a coarse hop.)
    """
    samples, rate_hz = street
    numbers = EventNumbers(on=0.5, off=0.3, min_duration_s=0.3, merge_gap_s=0.5)
    ends = {
        hop_s: [event for event in heard_by(model, blocks_of(samples), rate_hz, hop_s, numbers) if event.state == "end"]
        for hop_s in (0.1, 0.2, 0.5)
    }

    for one, other in itertools.permutations(ends, 2):
        clear = [event for event in ends[one] if event.likelihood_peak >= 0.5 + 0.15 and length(event) >= rate_hz]
        assert len({event.label for event in clear}) >= 5
        differences_s = []
        for event in clear:
            partner = max(ends[other], key=lambda candidate, event=event: overlap(candidate, event))  # type: ignore[misc]
            assert overlap(partner, event) > 0, f"{event} at a hop of {one} s has no partner at {other} s"
            differences_s += [abs(partner.onset - event.onset) / rate_hz]
            differences_s += [abs(until(partner) - until(event)) / rate_hz]
        assert np.quantile(differences_s, 0.9) <= max(one, other) / 2 + 0.05


@pytest.mark.parametrize("block_samples", [160, 4801])
def test_real_events_do_not_depend_on_the_block_size(model: ModelFolder, recordings: Path, block_samples: int) -> None:
    """Real recordings give byte-identical events for any block size, and twice in a row."""
    for recording in sorted((recordings / "sonyc").glob("*.flac"))[:2]:
        samples, rate_hz = soundfile.read(recording, dtype="float32")

        whole, again, sliced = (
            heard_by(model, blocks_of(samples, size), rate_hz, 0.1)
            for size in (len(samples), len(samples), block_samples)
        )

        assert repr(whole) == repr(again) == repr(sliced)


def length(event: SoundEvent) -> int:
    return until(event) - event.onset


def until(event: SoundEvent) -> int:
    assert event.offset is not None
    return event.offset


def overlap(one: SoundEvent, other: SoundEvent) -> int:
    """Samples that two events of the same class share; below 0 where they do not touch."""
    return min(until(one), until(other)) - max(one.onset, other.onset) if one.label == other.label else -1
