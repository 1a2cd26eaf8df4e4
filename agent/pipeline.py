"""The loop: audio blocks become sound events. Stages do not know one another; they meet here.

In: an iterator of `AudioBlock`s and the built stages. Out: what `emit` is called with. Runs on the pipeline thread, or,
with a recording in front, in `replay`. Time is in samples: nothing here asks a clock, a file or a network.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator

from agent.aggregation import Aggregator
from agent.errors import AgentError
from agent.events import EventDetector
from agent.frontend import FrontEnd
from agent.inference import Classifier
from agent.level import Levels
from agent.values import AudioBlock, EndReason, LevelReading, Prediction, Segment, SoundEvent, Window

WINDOWS_AT_ONCE = 100


def run(  # noqa: PLR0917  the sentence of the house, in its order
    blocks: Iterable[AudioBlock],
    front_end: FrontEnd,
    classifier: Classifier,
    aggregator: Aggregator,
    detector: EventDetector,
    emit: Callable[[SoundEvent], None],
    *,
    levels: Levels,
    end_reason: Callable[[], EndReason] = lambda: "end_of_stream",
    analysed: Callable[[int], None] = lambda _samples: None,
    judged: Callable[[Prediction], None] = lambda _prediction: None,
    measured: Callable[[Iterable[LevelReading]], None] = lambda _readings: None,
) -> None:
    """Turn audio blocks into sound events, until the blocks end.

    Every event that `start`ed also `end`s: at a gap, at the end, and when the blocks end with an error.

    Args:
        blocks: one stream; a block with `lost_before` above 0 begins afresh.
        front_end: gives the windows. Like all stages, fresh or `reset`, and `reset` again in the end.
        classifier: judges them.
        aggregator: sums what it says.
        detector: makes events of the sums.
        emit: takes each event.
        levels: says how loud each was.
        end_reason: asked when the blocks have ended: why they did.
        analysed: told after each block up to which sample all is analysed.
        judged: takes each window's prediction, before the events that follow from it.
        measured: takes the slices that each block completes.

    Raises:
        AgentError: what `blocks` or `emit` raise is passed on.
    """
    told = _measured(levels, emit)

    def judge(windows: Iterator[Window]) -> None:
        for prediction in _predicted(windows, classifier):
            judged(prediction)
            _tell(aggregator.push(prediction), detector, told)

    def finish(reason: EndReason) -> None:
        judge(front_end.flush())
        front_end.reset()
        _finish(aggregator, detector, told, reason)
        levels.reset()

    try:
        for block in blocks:
            if block.lost_before:
                finish("gap")  # never a silent splice
            measured(levels.push(block))
            judge(front_end.push(block))
            analysed(block.first_sample + len(block.samples))
    except AgentError:
        finish(end_reason())
        raise
    finish(end_reason())


def predictions(blocks: Iterable[AudioBlock], front_end: FrontEnd, classifier: Classifier) -> Iterator[Prediction]:
    """Judge every window of one stream, and nothing more: for `classify`, training and pictures."""
    for block in blocks:
        if block.lost_before:
            yield from _predicted(front_end.flush(), classifier)
            front_end.reset()
        yield from _predicted(front_end.push(block), classifier)
    yield from _predicted(front_end.flush(), classifier)
    front_end.reset()


def run_judged(
    predictions: Iterable[Prediction],
    aggregator: Aggregator,
    detector: EventDetector,
    emit: Callable[[SoundEvent], None],
    *,
    levels: Levels,
    end_reason: Callable[[], EndReason] = lambda: "end_of_stream",
) -> None:
    """The right half of `run`, for a stream without gaps that was judged elsewhere; there `levels` heard it as well."""
    told = _measured(levels, emit)
    try:
        for prediction in predictions:
            _tell(aggregator.push(prediction), detector, told)
    except AgentError:
        _finish(aggregator, detector, told, end_reason())
        raise
    _finish(aggregator, detector, told, end_reason())


def _measured(levels: Levels, emit: Callable[[SoundEvent], None]) -> Callable[[SoundEvent], None]:
    return lambda event: emit(levels.measured(event))


def _tell(segments: Iterator[Segment], detector: EventDetector, emit: Callable[[SoundEvent], None]) -> None:
    for segment in segments:
        for event in detector.push(segment):
            emit(event)


def _finish(
    aggregator: Aggregator, detector: EventDetector, emit: Callable[[SoundEvent], None], reason: EndReason
) -> None:
    """The stream has ended, or there is a gap: so does all that is open."""
    _tell(aggregator.flush(), detector, emit)
    for event in detector.flush(reason):
        emit(event)
    aggregator.reset()
    detector.reset()


def _predicted(windows: Iterator[Window], classifier: Classifier) -> Iterator[Prediction]:
    """Judge windows as many at once as there are: live one, from a recording all that a block completes."""
    while at_once := list(itertools.islice(windows, WINDOWS_AT_ONCE)):
        yield from classifier.predict_all(at_once)
