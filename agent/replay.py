"""Recordings through the same loop as the microphone: to events, or to one label each.

In: recordings. Out: finished events and clip predictions. Called on the main thread by `cli`.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from agent import pipeline
from agent.app import Judge, Stop
from agent.values import AudioBlock, EndReason, FloatArray, SoundEvent
from agent.wavfile import Recording

BLOCK_VALUES = 1 << 19  # of all channels; 2 MiB at most, where a second has not more


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
    """
    stages = judge.stages(recording.sample_rate_hz)
    blocks: Iterable[AudioBlock] = recording.blocks(block_samples or _block_samples(recording, speed))
    if speed is not None:
        blocks = paced(blocks, recording.sample_rate_hz, speed, stop.wait)

    def end_reason() -> EndReason:
        return "shutdown" if stop.is_set() else "end_of_stream"

    pipeline.run(
        itertools.takewhile(lambda _block: not stop.is_set(), blocks),
        stages.front_end,
        judge.classifier,
        stages.aggregator,
        stages.detector,
        emit,
        end_reason=end_reason,
        analysed=analysed,
    )


def _block_samples(recording: Recording, speed: float | None) -> int:
    """Paced blocks are short, so that events come when they are due; those of a file are long, which costs less."""
    if speed is not None:
        return max(1, recording.sample_rate_hz // 10)
    if recording.n_samples is None:  # a stream may be live
        return recording.sample_rate_hz
    return max(recording.sample_rate_hz, min(10 * recording.sample_rate_hz, BLOCK_VALUES // recording.n_channels))


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


def classify(recording: Recording, judge: Judge, *, stop: Stop) -> ClipPrediction | None:
    """The paper's clip prediction: likelihoods summed over all windows, the largest wins.

    Returns:
        None if `stop` was set before the recording ended, or if it holds no sound.

    Source: Cramer et al., ICASSP 2019, section 3.
    """
    stages = judge.stages(recording.sample_rate_hz)
    blocks = itertools.takewhile(lambda _block: not stop.is_set(), recording.blocks(_block_samples(recording, None)))
    total = np.zeros(len(judge.labels), np.float64)
    n_windows = 0
    for prediction in pipeline.predictions(blocks, stages.front_end, judge.classifier):
        total += prediction.likelihoods
        n_windows += 1
    if n_windows == 0 or stop.is_set():
        return None
    return ClipPrediction(judge.labels, (total / n_windows).astype(np.float32), n_windows)
