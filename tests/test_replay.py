"""Promises of `agent.replay`: recordings give the same events always, at any pace, and one label each."""

import io
import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile

from agent.app import Judge
from agent.clock import Timeline, WallClock
from agent.config import Config, InferenceConfig
from agent.coverage import Tally
from agent.intervals import Intervals
from agent.replay import ClipPrediction, classify, interval_levels, levels, paced, replay
from agent.stop import Stop
from agent.values import AudioBlock, FloatArray, IntervalLevel, SoundEvent
from agent.wavfile import open_recording, raw_pcm
from tests.street import Sound

RATE_HZ = 16_000


def events_of(file: Path, judge: Judge, *, block_samples: int | None = None, stop: Stop | None = None) -> list[str]:
    """Everything that is told about a recording, as text: equal texts are equal to the last bit."""
    events: list[SoundEvent] = []
    with open_recording(file) as recording:
        replay(recording, judge, events.append, stop=stop or Stop(), block_samples=block_samples)
    return [repr(event) for event in events]


@pytest.fixture(scope="module")
def street_events(street: Sound, judge: Judge) -> list[str]:
    """What is told about the street."""
    return events_of(street.file, judge)


def noise(duration_s: float, rate_hz: int = RATE_HZ) -> FloatArray:
    samples: FloatArray = np.random.default_rng(3).normal(0.0, 0.05, round(duration_s * rate_hz)).astype(np.float32)
    return samples


@pytest.mark.parametrize("block_samples", [17, 160, 4801, 10**9])
def test_a_street_gives_the_same_events_for_any_block_size(
    street: Sound, street_events: list[str], judge: Judge, block_samples: int
) -> None:
    """Real recordings give byte-identical events however they are read, and whenever they are read again."""
    assert events_of(street.file, judge, block_samples=block_samples) == street_events
    assert sum("state='end'" in event for event in street_events) >= 4


def test_both_forms_of_the_network_give_the_same_events(
    street: Sound, street_events: list[str], siren: Sound, judge: Judge
) -> None:
    """Streaming or window by window: byte-identical events; and one judge hears recordings one after the other."""
    windowed = Judge(Config(inference=InferenceConfig(form="windowed")))

    assert events_of(street.file, windowed) == street_events
    assert events_of(siren.file, judge) == events_of(siren.file, windowed)


def test_single_samples_give_the_same_events(siren: Sound, judge: Judge, tmp_path: Path) -> None:
    """Even sample by sample."""
    short = tmp_path / "short.wav"
    soundfile.write(short, siren.samples[48_000:168_000:3], RATE_HZ)

    expected = events_of(short, judge)

    assert events_of(short, judge, block_samples=1) == expected
    assert len(expected) >= 2


def test_every_event_that_starts_ends(siren: Sound, judge: Judge) -> None:
    """Each event is told as one start, perhaps updates, and one end; the end of the recording ends all."""
    states: dict[int, list[str]] = {}
    events: list[SoundEvent] = []
    with open_recording(siren.file) as recording:
        replay(recording, judge, events.append, stop=Stop())
    for event in events:
        states.setdefault(event.id, []).append(event.state)

    assert ["start", "update", "end"] in states.values()
    assert all((told[0], told[-1]) == ("start", "end") for told in states.values())
    assert events[-1].end_reason == "end_of_stream"
    assert events[-1].offset == len(siren.samples)


def test_stopping_ends_open_events_with_shutdown(siren: Sound, judge: Judge) -> None:
    """When it is told to stop, nothing more is read, and an open event ends where the sound was left."""
    stop = Stop()
    events: list[SoundEvent] = []
    analysed: list[int] = []

    def emit(event: SoundEvent) -> None:
        events.append(event)
        stop.set()

    with open_recording(siren.file) as recording:
        replay(recording, judge, emit, stop=stop, block_samples=4800, analysed=analysed.append)

    assert [(event.state, event.end_reason) for event in events] == [("start", None), ("end", "shutdown")]
    assert events[-1].offset == analysed[-1]
    assert analysed[-1] < len(siren.samples) / 2


def test_stopped_before_it_began_nothing_is_told(siren: Sound, judge: Judge) -> None:
    """A stop that comes before the first sample leaves nothing open."""
    stop = Stop()
    stop.set()

    assert events_of(siren.file, judge, stop=stop) == []


class Timepiece:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.now_s = 50.0
        self.waits_s: list[float] = []

    def wait(self, seconds: float) -> None:
        self.waits_s.append(seconds)
        self.now_s += seconds

    def monotonic(self) -> float:
        return self.now_s


@pytest.mark.parametrize("speed", [1.0, 8.0])
def test_paced_blocks_come_when_a_microphone_would_have_them(speed: float) -> None:
    """A block comes when its last sample has been heard, so that live delays can be seen; faster by `speed`."""
    clock = Timepiece()
    blocks = [AudioBlock(noise(0.1), first) for first in range(0, 5 * 1600, 1600)]

    came_s = [clock.now_s for _ in paced(blocks, RATE_HZ, speed, clock.wait, clock.monotonic)]

    np.testing.assert_allclose(came_s, 50.0 + np.arange(1, 6) * 0.1 / speed)


def test_a_pace_that_cannot_be_kept_is_caught_up() -> None:
    """When the analysis was slow for a while, the next blocks come without waiting, until they are in time again."""
    clock = Timepiece()
    blocks = [AudioBlock(noise(0.1), first) for first in range(0, 5 * 1600, 1600)]

    for number, _ in enumerate(paced(blocks, RATE_HZ, 1.0, clock.wait, clock.monotonic)):
        if number == 0:
            clock.now_s += 0.25

    np.testing.assert_allclose(clock.waits_s, [0.1, 0.0, 0.0, 0.05, 0.1], atol=1e-9)


def test_pace_changes_no_event(siren: Sound, judge: Judge) -> None:
    """At a thousand times real time, in the short blocks of a paced replay, the events are those of a plain one."""
    paced_events: list[SoundEvent] = []
    with open_recording(siren.file) as recording:
        replay(recording, judge, paced_events.append, stop=Stop(), speed=1000.0)

    assert [repr(event) for event in paced_events] == events_of(siren.file, judge)


def test_progress_is_told_to_the_last_sample(siren: Sound, judge: Judge) -> None:
    """Who watches sees the recording go by in order, and in the end the whole of it."""
    analysed: list[int] = []
    with open_recording(siren.file) as recording:
        replay(recording, judge, lambda _: None, stop=Stop(), analysed=analysed.append)

    assert analysed == sorted(analysed)
    assert analysed[-1] == len(siren.samples)


def test_a_stream_is_analysed_as_it_comes(judge: Judge) -> None:
    """Raw PCM may come from a microphone: after each second of it is told what was heard until then."""
    pcm = (noise(4.5) * 32767).astype("<i2").tobytes()
    stream = raw_pcm(io.BytesIO(pcm), sample_rate_hz=RATE_HZ, channels=1, format="s16le")
    analysed: list[int] = []

    replay(stream, judge, lambda _: None, stop=Stop(), analysed=analysed.append)

    assert analysed == [16_000, 32_000, 48_000, 64_000, 72_000]


def prediction_of(file: Path, judge: Judge) -> ClipPrediction:
    with open_recording(file) as recording:
        prediction = classify(recording, judge, stop=Stop())
    assert prediction is not None
    return prediction


def test_a_clip_is_what_its_windows_add_up_to(recordings: Path, judge: Judge) -> None:
    """The paper's clip prediction: likelihoods summed over all windows of 1 s at a hop of 0.1 s, the largest wins."""
    clip = recordings / "urbansound8k" / "fold2" / "123688-8-1-0.ogg"

    prediction = prediction_of(clip, judge)

    assert prediction.label == "siren"
    assert prediction.n_windows == math.floor((soundfile.info(clip).duration - 1.0) / 0.1 + 1e-9) + 1
    assert prediction.labels == judge.labels
    assert prediction.likelihoods.shape == (len(judge.labels),)
    assert 0.0 <= prediction.likelihoods.min() <= prediction.likelihoods.max() <= 1.0


def test_a_clip_of_0_05_s_is_padded_and_judged_once(judge: Judge, tmp_path: Path) -> None:
    """A recording shorter than a window is padded with silence at its end, as if the silence had been there."""
    soundfile.write(tmp_path / "short.wav", noise(0.05), RATE_HZ, subtype="FLOAT")
    padded = np.concatenate([noise(0.05), np.zeros(round(0.95 * RATE_HZ), np.float32)])
    soundfile.write(tmp_path / "padded.wav", padded, RATE_HZ, subtype="FLOAT")

    short, whole = prediction_of(tmp_path / "short.wav", judge), prediction_of(tmp_path / "padded.wav", judge)

    assert short.n_windows == whole.n_windows == 1
    np.testing.assert_array_equal(short.likelihoods, whole.likelihoods)


def test_a_stopped_classification_gives_no_label(judge: Judge, tmp_path: Path) -> None:
    """Half a recording is not judged as if it were all of it."""
    soundfile.write(tmp_path / "noise.wav", noise(3.0), RATE_HZ)
    stop = Stop()
    stop.set()

    with open_recording(tmp_path / "noise.wav") as recording:
        assert classify(recording, judge, stop=stop) is None


def test_silence_is_no_event(judge: Judge, tmp_path: Path) -> None:
    """Digital silence, as a muted input gives it, tells nothing."""
    soundfile.write(tmp_path / "silence.wav", np.zeros(5 * RATE_HZ, np.float32), RATE_HZ)

    assert events_of(tmp_path / "silence.wav", judge) == []


# Levels


def test_minutes_of_a_recording_are_those_that_the_sensor_tells(street: Sound) -> None:
    """The same sound, heard at the same time, has the same level in each interval, to the last bit."""
    start = datetime(2026, 1, 1, 11, 59, 53, 400_000, UTC)
    with open_recording(street.file) as recording:
        replayed = list(interval_levels(recording, start, interval_s=10, stop=Stop()))
    with open_recording(street.file) as recording:
        readings, rate_hz = levels(recording, stop=Stop()), recording.sample_rate_hz
    live: list[IntervalLevel] = []
    intervals = Intervals(
        Timeline(rate_hz, WallClock(wall=start.timestamp, monotonic=lambda: 0.0, synced=lambda: True)),
        interval_s=10,
        account=Tally,
        tell=lambda level, _reckoning: live.append(level),
    )
    intervals.push(readings)
    intervals.finish()

    assert [one.statistics for one in replayed] == [one.statistics for one in live]
    assert [(one.start_ns, one.end_ns) for one in replayed] == [(one.start_ns, one.end_ns) for one in live]
    assert len(replayed) == 4


def test_silence_and_clipping_in_a_recording_are_told_with_their_minute(tmp_path: Path) -> None:
    """Three seconds of nothing, then sound, then two of a square wave at full scale."""
    square = np.sign(noise(2.0))
    soundfile.write(
        tmp_path / "a.wav", np.concatenate([np.zeros(3 * RATE_HZ), noise(7.0), noise(8.0), square]), RATE_HZ
    )

    with open_recording(tmp_path / "a.wav") as recording:
        first, second = interval_levels(recording, None, interval_s=10, stop=Stop())

    assert (first.silent_ns / 1e9, first.clipped_ns / 1e9) == (3.0, 0.0)
    assert (second.silent_ns / 1e9, second.clipped_ns / 1e9) == (0.0, 2.0)


def test_levels_stop_when_they_are_told_to(street: Sound) -> None:
    """What was heard until then is told."""
    stop = Stop()
    with open_recording(street.file) as recording:
        told = interval_levels(recording, None, interval_s=1, stop=stop)
        first = next(told)
        stop.set()
        rest = list(told)

    assert first.start_ns == 0
    assert len(rest) <= 2
