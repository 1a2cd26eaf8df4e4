"""Recordings through the same loop as the microphone: to events, or to one label each; or to levels alone.

In: recordings. Out: finished events, clip predictions, levels. Called on the main thread by `cli`.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from agent import pipeline
from agent.app import Judge
from agent.clock import EPOCH, Reckoning, recording_timeline
from agent.intervals import Intervals
from agent.level import LevelMeter
from agent.stop import Stop
from agent.timesheet import RecordingTimes
from agent.values import AudioBlock, EndReason, FloatArray, IntervalLevel, LevelReading, SoundEvent
from agent.wavfile import Recording

if TYPE_CHECKING:
    from agent.workers import Workers

PACED_BLOCKS_PER_S = 10  # short, so that events come when they are due


@dataclass(frozen=True, slots=True)
class ClipPrediction:
    """What a whole recording is.

    Attributes:
        labels: the classes.
        likelihoods: float32 (n_classes,), summed over all windows and divided by their number; in [0, 1].
        n_windows: how many windows were judged.
    """

    labels: tuple[str, ...]
    likelihoods: FloatArray
    n_windows: int

    @property
    def label(self) -> str:
        """The class with the largest sum."""
        return self.labels[int(self.likelihoods.argmax())]


def replay(
    recording: Recording,
    judge: Judge,
    emit: Callable[[SoundEvent], None],
    *,
    stop: Stop,
    block_samples: int | None = None,
    speed: float | None = None,
    analysed: Callable[[int], None] = lambda _samples: None,
    workers: "Workers | None" = None,
    times: RecordingTimes | None = None,
) -> None:
    """Run one recording through the whole pipeline.

    Args:
        recording: open, not yet read.
        judge: the model and the site's rules.
        emit: takes each event, in every state.
        stop: once set, the recording ends here and open events `end`.
        block_samples: length of the blocks; the events do not depend on it.
        speed: times real time; as fast as it goes if None.
        analysed: told after each block up to which sample all is analysed.
        workers: who judges the recording as fast as it goes, if they take it; the events do not depend on it.
        times: what accounts for each sample; not with workers.
    """
    stages = judge.stages(recording.sample_rate_hz)

    def end_reason() -> EndReason:
        return "shutdown" if stop.is_set() else "end_of_stream"

    judged = None if workers is None else workers.predictions(recording, analysed, stages.levels.hear)
    if judged is not None:
        going_on = itertools.takewhile(lambda _prediction: not stop.is_set(), judged)
        pipeline.run_judged(
            going_on, stages.aggregator, stages.detector, emit, levels=stages.levels, end_reason=end_reason
        )
        return
    blocks: Iterable[AudioBlock]
    if speed is None:
        blocks = recording.blocks(block_samples or recording.long_block)
    else:
        short = recording.blocks(block_samples or max(1, recording.sample_rate_hz // PACED_BLOCKS_PER_S))
        blocks = paced(short, recording.sample_rate_hz, speed, stop.wait)
    if times is not None:
        blocks = times.watch(blocks)
    pipeline.run(
        itertools.takewhile(lambda _block: not stop.is_set(), blocks),
        stages.front_end,
        judge.classifier,
        stages.aggregator,
        stages.detector,
        emit,
        levels=stages.levels,
        end_reason=end_reason,
        analysed=analysed,
    )


def paced(
    blocks: Iterable[AudioBlock],
    sample_rate_hz: int,
    speed: float,
    wait: Callable[[float], object],
    monotonic: Callable[[], float] = time.monotonic,
) -> Iterator[AudioBlock]:
    """Hand on each block when a microphone would have it whole, at `speed` times real time."""
    start = monotonic()
    for block in blocks:
        due = start + (block.first_sample + len(block.samples)) / sample_rate_hz / speed
        wait(max(0.0, due - monotonic()))
        yield block


def levels(recording: Recording, *, stop: Stop) -> list[LevelReading]:
    """How loud a recording is, an eighth of a second each; less of it where `stop` was set before it ended."""
    meter = LevelMeter(recording.sample_rate_hz)
    blocks = itertools.takewhile(lambda _block: not stop.is_set(), recording.blocks())
    return [reading for block in blocks for reading in meter.push(block)]


@dataclass(frozen=True, slots=True)
class _RecordingDates:
    """When the samples of a recording were heard; if nobody knows, as if 1970 had just begun."""

    utc_of: Callable[[int], datetime]
    reckoning: Reckoning


def interval_levels(
    recording: Recording, start: datetime | None, *, interval_s: int, stop: Stop
) -> Iterator[IntervalLevel]:
    """How loud each interval of a recording was, as the sensor tells it live.

    Args:
        recording: at its beginning.
        start: when its first sample was heard; None where nobody knows: then intervals are counted from there.
        interval_s: how long each is, a divisor of an hour.
        stop: set where the rest is not wanted.
    """
    rate_hz = recording.sample_rate_hz
    meter, times = LevelMeter(rate_hz), RecordingTimes(rate_hz, start)
    told: list[IntervalLevel] = []
    intervals = Intervals(
        _RecordingDates(recording_timeline(start or EPOCH, rate_hz), Reckoning("", 0.0, synced=None)),
        interval_s=interval_s,
        account=lambda: times.total,
        tell=lambda level, _reckoning: told.append(level),
    )
    readings: list[LevelReading] = []
    for block in times.watch(itertools.takewhile(lambda _block: not stop.is_set(), recording.blocks())):
        intervals.push(readings)  # they are accounted for by now
        yield from told
        told.clear()
        readings = meter.push(block)
    intervals.push(readings)
    intervals.finish()
    yield from told


def classify(
    recording: Recording, judge: Judge, *, stop: Stop, workers: "Workers | None" = None
) -> ClipPrediction | None:
    """The paper's clip prediction: likelihoods summed over all windows, the largest wins.

    Returns:
        None if `stop` was set before the recording ended, or if it holds no sound.

    Source: Cramer et al., ICASSP 2019, section 3.
    """
    predictions = None if workers is None else workers.predictions(recording)
    if predictions is None:
        blocks = itertools.takewhile(lambda _block: not stop.is_set(), recording.blocks(recording.long_block))
        predictions = pipeline.predictions(blocks, judge.stages(recording.sample_rate_hz).front_end, judge.classifier)
    total = np.zeros(len(judge.labels), np.float64)
    n_windows = 0
    for prediction in itertools.takewhile(lambda _prediction: not stop.is_set(), predictions):
        total += prediction.likelihoods
        n_windows += 1
    if n_windows == 0 or stop.is_set():
        return None
    return ClipPrediction(judge.labels, (total / n_windows).astype(np.float32), n_windows)
