"""Other processes that judge recordings, so that a replay uses more than one core.

In: recordings. Out: their predictions, one recording after the other and in the order of time; events are made of them
in one process, as ever. Called on the main thread, by `replay` and `cli`. A long recording is heard in parts, each from
where a stream can be joined: so the predictions are those of one process, to the last bit. Who judges the parts is a
`Crew`: processes of this machine, or a cluster (`agent.cluster`).
"""

import itertools
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from agent import pipeline
from agent.app import Judge
from agent.config import Config
from agent.errors import AgentError, RecordingError, UsageError
from agent.level import LevelMeter
from agent.mono import Channel
from agent.resampler import LEAD_S
from agent.stop import Stop, end_with
from agent.values import AudioBlock, FloatArray, LevelReading, Prediction
from agent.wavfile import Recording, Source, open_recording

WORTH_S = (
    600.0  # of sound for each process: the default model judges it in about the time that a process takes to start
)
WHOLE_MAX_S = 600.0  # what cannot be heard in parts and is longer would be a long answer: it is judged here
PARTS_AHEAD = 2  # for each process
LOOK_S = 0.2  # how soon a signal is noticed while a part is waited for
ALONE_S = 30.0  # how long a crew may have no workers while a part is waited for; others may come
NO_EMBEDDING = np.empty(0, np.float32)

Asked: TypeAlias = "connection.Connection[Part | None, Judged | RecordingError]"  # None: it is to end
Answering: TypeAlias = "connection.Connection[Judged | RecordingError, Part | None]"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a recording.

    Attributes:
        file: the recording.
        channel: of the file.
        begin: its first sample; all of it are whole periods in which a stream can be joined.
        end: where the next part begins; None for the last.
        lead: samples at its begin that still belong to the part before; none for the first.
        measured: whether it is asked how loud it is.
    """

    file: Source
    channel: Channel
    begin: int
    end: int | None
    lead: int
    measured: bool = True


@dataclass(frozen=True, slots=True)
class Judged:
    """What a process made of a part.

    Attributes:
        first_samples, n_samples: int64 (n,), of the windows that begin in the part.
        likelihoods: float32 (n, n_classes).
        readings: how loud the part was.
        until: up to which sample the recording was read.
        ended: whether it ends there.
        problem: what is wrong with the recording as far as it was read; None if nothing is.
        n_invalid_samples: in the part.
    """

    first_samples: NDArray[np.int64]
    n_samples: NDArray[np.int64]
    likelihoods: FloatArray
    readings: tuple[LevelReading, ...]
    until: int
    ended: bool
    problem: str | None
    n_invalid_samples: int


def worthwhile(files: Sequence[Source], channel: Channel) -> int:
    """How many processes pay for so much sound; not more than there are cores for this one."""
    most = len(os.sched_getaffinity(0))
    total_s = 0.0
    for file in files:
        if total_s >= most * WORTH_S:
            break
        try:
            with open_recording(file, channel) as recording:
                total_s += recording.duration_s or 0.0
        except RecordingError:  # said when it is its turn
            continue
    return max(1, min(most, int(total_s / WORTH_S)))


class Crew(Protocol):
    """Who judges parts, in any order.

    Attributes:
        n: how many parts it judges at once.
    """

    n: int

    def submit(self, part: Part) -> Future[Judged]:
        """Have a part judged.

        Raises:
            AgentError: nobody is there any more.
        """

    def has_workers(self) -> bool:
        """Whether anybody is there now who may judge."""

    def broken(self, error: Exception) -> AgentError | None:
        """What to tell if this came instead of a part; None for an error that is the part's own."""

    def close(self) -> None:
        """Stop working; what is not done is not wanted."""


def judging_alone(config: Config) -> Config:
    """What those who judge need of the configuration: no secrets, and one thread of the CPU for each."""
    inference = config.inference.model_copy(update={"num_threads": 1, "accelerator": "cpu"})
    return Config(model=config.model, inference=inference, events=config.events)


class Processes:
    """Processes of this machine, and a thread for each that hands it one part at a time.

    Not `ProcessPoolExecutor`: where a process dies while a part is submitted, that of Python 3.11 can leave a future
    that never ends.

    Args:
        config: each process makes its own judge of it.
        n: how many.

    Raises:
        UsageError: the system does not start so many.
    """

    def __init__(self, config: Config, n: int) -> None:
        context = multiprocessing.get_context("spawn")  # forked LiteRT threads would hang
        self.n = n
        self._threads = ThreadPoolExecutor(n)
        self._idle: SimpleQueue[Asked] = SimpleQueue()
        self._processes: list[tuple[BaseProcess, Asked]] = []
        resource_tracker.ensure_running()  # it unblocks SIGINT as it starts
        # A child keeps this mask: Ctrl-C goes to the whole process group, and it is the parent's to stop.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for _ in range(n):
                asked, asking = context.Pipe()
                process = context.Process(target=_work, args=(judging_alone(config), asking))
                process.start()
                asking.close()  # so that its end is the end of the pipe
                self._processes.append((process, asked))
                self._idle.put(asked)
        except OSError as error:
            self.close()  # Python waits for its children at exit, and they would wait to be asked
            raise UsageError(f"--jobs {n}: cannot start so many processes ({error.strerror})") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def submit(self, part: Part) -> Future[Judged]:
        """Have a part judged."""
        return self._threads.submit(self._ask, part)

    def _ask(self, part: Part) -> Judged:
        asked = self._idle.get()  # there is one: there are no more threads than processes
        try:
            asked.send(part)
            answer = asked.recv()
        except (EOFError, OSError) as error:
            raise ChildProcessError from error
        finally:
            self._idle.put(asked)
        if isinstance(answer, RecordingError):
            raise answer
        return answer

    def has_workers(self) -> bool:
        """Always: where one dies, that is the answer to its part."""
        return True

    def broken(self, error: Exception) -> AgentError | None:
        """A process has died."""
        if isinstance(error, ChildProcessError):
            return AgentError("a process that judges recordings has ended, expected it to go on (out of memory?)")
        return None

    def close(self) -> None:
        """Stop working; what is not done is not wanted."""
        for _, asked in self._processes:
            with suppress(OSError):  # it has ended
                asked.send(None)
        self._threads.shutdown(cancel_futures=True)
        for process, asked in self._processes:
            asked.close()
            process.join()


class Workers:
    """A crew judges what comes next, while the caller makes events of what it judged before.

    Args:
        judge: as the crew's.
        crew: is closed in the end.
        files: in the order in which `predictions` will be asked for.
        channel: of all files.
        measured: whether it is asked how loud they are.
        stop: once set, no part is waited for, and a process that has ended is no error: the signal may have gone to
            all of them.
    """

    def __init__(
        self, judge: Judge, crew: Crew, files: Sequence[Source], channel: Channel, *, measured: bool = True, stop: Stop
    ) -> None:
        self._crew = crew
        self._measured = measured
        self._stop = stop
        self._most = crew.n * PARTS_AHEAD
        self._numbers = {str(file): number for number, file in enumerate(files)}
        self._parts = (part for file in files for part in self._parts_of(file, channel, judge.join_period_s))
        self._waiting: deque[tuple[int, Future[Judged]]] = deque()  # number of the file, what becomes of a part
        self._wanted = 0  # number of the file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._crew.close()

    def predictions(
        self,
        recording: Recording,
        analysed: Callable[[int], None] = lambda _samples: None,
        hear: Callable[[LevelReading], None] = lambda _reading: None,
    ) -> Iterator[Prediction] | None:
        """What the processes made of a recording, without embeddings; its problems are noted in it.

        Args:
            recording: just opened, and nothing read of it.
            analysed: told after each part up to which sample all is analysed.
            hear: takes the readings of the levels, each before the predictions of windows that end later.

        Returns:
            The predictions; None for a recording that has to be judged here: a stream, or too long for one process.

        Raises:
            RecordingError: while they are taken: it cannot be opened any more.
            AgentError: while they are taken: the crew does not go on.
        """
        if recording.name not in self._numbers:
            return None
        self._wanted = self._numbers[recording.name]
        self._fill()
        while self._waiting and self._waiting[0][0] < self._wanted:  # it was left before its end
            self._waiting.popleft()[1].cancel()
            self._fill()
        if not self._waiting or self._waiting[0][0] != self._wanted:
            return None
        return self._taken(recording, analysed, hear)

    def _taken(
        self, recording: Recording, analysed: Callable[[int], None], hear: Callable[[LevelReading], None]
    ) -> Iterator[Prediction]:
        ended = False
        while not ended:
            _, answer = self._waiting.popleft()
            self._fill()
            try:
                if not self._comes(answer):
                    return
                judged = answer.result()
            except Exception as error:  # whatever a part raised: it is raised again, or told as the crew's
                broken = self._crew.broken(error)
                if broken is None:
                    raise
                if self._stop.is_set():
                    return
                raise broken from error
            ended = judged.ended
            recording.problem = recording.problem or judged.problem
            recording.n_invalid_samples += judged.n_invalid_samples
            windows = zip(judged.first_samples.tolist(), judged.n_samples.tolist(), strict=True)
            readings = deque(judged.readings)
            for likelihoods, (first_sample, n_samples) in zip(judged.likelihoods, windows, strict=True):
                while readings and readings[0].first_sample + readings[0].n_samples <= first_sample + n_samples:
                    hear(readings.popleft())
                yield Prediction(likelihoods, NO_EMBEDDING, first_sample, n_samples)
            for reading in readings:
                hear(reading)
            analysed(judged.until)

    def _comes(self, answer: Future[Judged]) -> bool:
        """Wait for an answer; False once it is time to stop.

        Raises:
            TimeoutError: nobody is left to give it.
        """
        attended_s = time.monotonic()
        while not wait([answer], LOOK_S).done:
            if self._stop.is_set():
                return False
            if self._crew.has_workers():
                attended_s = time.monotonic()
            elif time.monotonic() - attended_s > ALONE_S:
                raise TimeoutError(f"no worker has been there for {ALONE_S:g} s")
        return True

    def _fill(self) -> None:
        for part in itertools.islice(self._parts, self._most - len(self._waiting)):
            self._waiting.append((self._numbers[str(part.file)], self._crew.submit(part)))

    def _parts_of(self, file: Source, channel: Channel, period_s: int) -> Iterator[Part]:
        """The parts of one file; none if it is to be judged here, or cannot be opened, which is said there."""
        try:
            with open_recording(file, channel) as recording:
                rate_hz, n_samples, seekable = recording.sample_rate_hz, recording.n_samples, recording.seekable
        except RecordingError:
            return
        if n_samples is None or not seekable:
            if n_samples is not None and n_samples <= WHOLE_MAX_S * rate_hz:
                yield Part(file, channel, 0, None, lead=0, measured=self._measured)
            return
        # The end of a recording is long enough to be a part if a window can begin after its lead.
        begins = range(0, max(1, n_samples - 2 * LEAD_S * rate_hz), period_s * rate_hz)
        for begin, end in itertools.zip_longest(begins, begins[1:]):
            if self._numbers[str(file)] < self._wanted:
                return
            yield Part(file, channel, begin, end, lead=LEAD_S * rate_hz, measured=self._measured)


# --- in the other processes ----------------------------------------------------------------------------------------


class Worker:
    """What judges part after part; for one thread.

    Args:
        config: as `judging_alone` gives it.
        stopped: asked now and then; a part that is not wanted any more ends there.

    Attributes:
        model_sha256: which model it judges by.
    """

    def __init__(self, config: Config, stopped: Callable[[], bool]) -> None:
        self._judge = Judge(config)
        self._stopped = stopped
        self.model_sha256 = self._judge.model.sha256

    def judge(self, part: Part) -> Judged:
        """Judge a part.

        Raises:
            RecordingError: the recording cannot be opened.
        """
        try:
            recording = open_recording(part.file, part.channel, first_sample=part.begin)
        except RecordingError as error:
            if part.begin == 0:
                raise
            return self._answer([], [], part.begin, ended=True, problem=str(error), n_invalid_samples=0)
        with recording:
            return self._judged(part, recording)

    def _judged(self, part: Part, recording: Recording) -> Judged:
        until, n_invalid = part.begin, 0
        first = part.begin + part.lead if part.begin else 0
        end = None if part.end is None else part.end + part.lead
        meter = LevelMeter(recording.sample_rate_hz)
        readings: list[LevelReading] = []

        def blocks() -> Iterator[AudioBlock]:
            nonlocal until, n_invalid
            for block in _blocks_of(part, recording):
                if self._stopped():
                    return
                until = block.first_sample + len(block.samples)
                if part.end is None or until <= part.end:
                    n_invalid = recording.n_invalid_samples
                if part.measured:
                    readings.extend(meter.push(block))
                yield block

        predictions = pipeline.predictions(
            blocks(), self._judge.stages(recording.sample_rate_hz).front_end, self._judge.classifier
        )
        heard = []
        for prediction in predictions:
            if end is not None and prediction.first_sample >= end:
                ended = False
                break
            if prediction.first_sample >= first:
                heard.append(prediction)
        else:
            ended = True
        loud = [one for one in readings if one.first_sample >= first and (end is None or one.first_sample < end)]
        return self._answer(heard, loud, until, ended=ended, problem=recording.problem, n_invalid_samples=n_invalid)

    def _answer(
        self,
        heard: Sequence[Prediction],
        readings: Sequence[LevelReading],
        until: int,
        *,
        ended: bool,
        problem: str | None,
        n_invalid_samples: int,
    ) -> Judged:
        likelihoods = np.empty((len(heard), len(self._judge.labels)), np.float32)
        for row, prediction in zip(likelihoods, heard, strict=True):
            row[:] = prediction.likelihoods
        return Judged(
            first_samples=np.array([prediction.first_sample for prediction in heard], np.int64),
            n_samples=np.array([prediction.n_samples for prediction in heard], np.int64),
            likelihoods=likelihoods,
            readings=tuple(readings),
            until=until,
            ended=ended,
            problem=problem,
            n_invalid_samples=n_invalid_samples,
        )


def _blocks_of(part: Part, recording: Recording) -> Iterator[AudioBlock]:
    """The part in long blocks; then in short ones until somebody has had enough of the next part."""
    n = recording.long_block
    if part.end is None:
        yield from recording.blocks(n)
    else:
        yield from itertools.islice(recording.blocks(n), (part.end - part.begin) // n)
        yield from recording.blocks()


def _work(config: Config, asking: Answering) -> None:
    """All that a process does, until nobody asks any more; what comes while it judges a part is that it is to end."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    end_with(parent.sentinel)  # a process whose parent was killed would wait for it for good
    worker = Worker(config, asking.poll)
    with suppress(EOFError, OSError):  # the parent has let go
        while (part := asking.recv()) is not None:
            asking.send(_answer_of(worker, part))


def _answer_of(worker: Worker, part: Part) -> Judged | RecordingError:
    try:
        return worker.judge(part)
    except RecordingError as error:
        return error
