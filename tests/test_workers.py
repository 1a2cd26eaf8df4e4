"""Promises of `agent.workers`: several processes judge, and nobody can tell it from what they say."""

import os
import resource
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import soundfile

from agent import pipeline, workers
from agent.app import Judge
from agent.config import Config, InferenceConfig
from agent.errors import AgentError
from agent.replay import classify, replay
from agent.stop import Stop
from agent.values import Prediction
from agent.wavfile import Recording, open_recording
from agent.workers import PARTS_AHEAD, WORTH_S, Judged, Part, Processes, Workers, worthwhile
from tests.broker import wait_until
from tests.commands import CommandFactory
from tests.wail import wail

RATE_HZ = 22_050
LONG_S = 250.6  # three parts

Told = tuple[int, int, bytes]


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of all kinds: long, short, spoilt, cut off, coded with their past, and none at all."""
    folder = tmp_path_factory.mktemp("street")
    samples = wail(LONG_S, RATE_HZ, quietest=-4.0, noise=0.3)
    soundfile.write(folder / "a-long.flac", samples, RATE_HZ)
    soundfile.write(folder / "b-short.wav", samples[:RATE_HZ], RATE_HZ)
    soundfile.write(folder / "c-coded.ogg", samples[: 30 * RATE_HZ], RATE_HZ)
    spoilt = np.stack((samples, np.roll(samples, 999)), axis=1)
    for second in (5.0, 119.99, 120.5, 121.5, 249.0):
        spoilt[round(second * RATE_HZ), 0] = np.nan
    soundfile.write(folder / "d-spoilt.wav", spoilt, RATE_HZ, subtype="FLOAT")
    soundfile.write(folder / "e-cut.flac", samples, RATE_HZ)
    whole = (folder / "e-cut.flac").read_bytes()
    (folder / "e-cut.flac").write_bytes(whole[: len(whole) // 2])
    (folder / "f-none.wav").write_bytes(b"no recording")
    soundfile.write(folder / "g-last.wav", samples[: 2 * RATE_HZ], RATE_HZ)
    return folder


def told(prediction: Prediction) -> Told:
    return prediction.first_sample, prediction.n_samples, prediction.likelihoods.tobytes()


def judged_here(recording: Recording, judge: Judge) -> list[Told]:
    front_end = judge.stages(recording.sample_rate_hz).front_end
    return list(map(told, pipeline.predictions(recording.blocks(), front_end, judge.classifier)))


def judged_by(workers: Workers, recording: Recording) -> list[Told]:
    predictions = workers.predictions(recording)
    assert predictions is not None
    return list(map(told, predictions))


def test_several_processes_judge_as_one_does(street: Path, judge: Judge) -> None:
    """Every window of every recording gets the same likelihoods to the last bit, and what is wrong is said once."""
    files = [file for file in sorted(street.iterdir()) if file.name != "f-none.wav"]

    with Workers(judge, Processes(judge.config, 2), files, "mix", stop=Stop()) as workers:
        for file in files:
            with open_recording(file) as here, open_recording(file) as there:
                assert judged_by(workers, there) == judged_here(here, judge)
                assert (there.problem, there.n_invalid_samples) == (here.problem, here.n_invalid_samples)

    assert here.problem is None
    assert there.n_invalid_samples == 0


def test_both_forms_and_other_hops_and_channels(street: Path) -> None:
    """The promise holds window by window, at a hop of 0.2 s, and for one channel."""
    config = Config(inference=InferenceConfig(form="windowed", window_hop_s=0.2))
    judge, file = Judge(config), street / "d-spoilt.wav"

    with Workers(judge, Processes(judge.config, 2), [file], 2, stop=Stop()) as workers, open_recording(file, 2) as here:
        with open_recording(file, 2) as there:
            assert judged_by(workers, there) == judged_here(here, judge)
        assert there.n_invalid_samples == 0


def test_events_and_labels_are_those_of_one_process(street: Path, judge: Judge) -> None:
    """What is told about a recording is the same to the last byte; a recording that is left does not hold up others."""
    files = sorted(street.glob("*.*"))

    def events_of(file: Path, workers: Workers | None) -> list[str]:
        events: list[str] = []
        with open_recording(file) as recording:
            replay(recording, judge, lambda event: events.append(repr(event)), stop=Stop(), workers=workers)
        return events

    def label_of(file: Path, workers: Workers | None) -> bytes:
        with open_recording(file) as recording:
            prediction = classify(recording, judge, stop=Stop(), workers=workers)
        assert prediction is not None
        return prediction.likelihoods.tobytes()

    with Workers(judge, Processes(judge.config, 2), files, "mix", stop=Stop()) as workers:
        assert events_of(files[0], workers) == events_of(files[0], None) != []
        assert events_of(files[2], workers) == events_of(files[2], None)
        assert label_of(files[4], workers) == label_of(files[4], None)
        with open_recording(files[-1]) as last:
            assert workers.predictions(last) is not None


def test_what_cannot_be_shared_is_judged_here(judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream, and a long recording of which no part can be read alone; the next one is shared again."""
    monkeypatch.setattr(workers, "WHOLE_MAX_S", 5.0)
    files = [tmp_path / "1.ogg", tmp_path / "2.ogg"]
    for file, duration_s in zip(files, (6.0, 4.0), strict=True):
        soundfile.write(file, wail(duration_s, RATE_HZ, quietest=-4.0, noise=0.3), RATE_HZ)

    with (
        Workers(judge, Processes(judge.config, 2), files, "mix", stop=Stop()) as shared,
        open_recording(files[0]) as long,
        open_recording(files[1]) as short,
    ):
        assert shared.predictions(long) is None
        long.name = "standard input"
        assert shared.predictions(long) is None
        assert len(judged_by(shared, short)) == 31


def sparse_wav(file: Path, duration_s: int) -> Path:
    """Silence that takes no room on the disk: 8 bit, 8 kHz."""
    soundfile.write(file, np.zeros(8), 8_000, subtype="PCM_U8")
    content = bytearray(file.read_bytes())
    n = duration_s * 8_000
    content[4:8], content[40:44] = (36 + n).to_bytes(4, "little"), n.to_bytes(4, "little")
    file.write_bytes(content[:44])
    os.truncate(file, 44 + n)
    return file


def test_processes_do_not_run_far_ahead(judge: Judge, tmp_path: Path) -> None:
    """Of a recording of a day, only a few parts are on the way at any time: memory does not grow with its length."""
    day = sparse_wav(tmp_path / "day.wav", 24 * 3600)

    with (
        Workers(judge, Processes(judge.config, 2), [day], "mix", stop=Stop()) as workers,
        open_recording(day) as recording,
    ):
        predictions = workers.predictions(recording)
        assert predictions is not None
        for _ in range(3000):
            next(predictions)
            assert len(workers._waiting) <= 2 * PARTS_AHEAD


def test_a_process_that_dies_is_said(judge: Judge, tmp_path: Path) -> None:
    """When the system kills a process, the replay does not wait for it."""
    day = sparse_wav(tmp_path / "day.wav", 24 * 3600)
    crew = Processes(judge.config, 1)

    with Workers(judge, crew, [day], "mix", stop=Stop()) as workers, open_recording(day) as recording:
        predictions = workers.predictions(recording)
        assert predictions is not None
        next(predictions)
        kill(crew)
        with pytest.raises(AgentError, match="a process that judges recordings has ended"):
            list(predictions)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_process_that_died_before_it_is_asked_is_said(judge: Judge, tmp_path: Path, stopped: bool) -> None:
    """Processes that take no part any more are told as those that give no answer; after a stop they are expected."""
    day = sparse_wav(tmp_path / "day.wav", 24 * 3600)
    crew, stop = Processes(judge.config, 1), Stop()
    answer = crew.submit(Part(day, "mix", 0, None, lead=0))
    kill(crew)
    assert isinstance(answer.exception(), ChildProcessError)
    if stopped:
        stop.set()

    with Workers(judge, crew, [day], "mix", stop=stop) as workers, open_recording(day) as recording:
        predictions = workers.predictions(recording)
        assert predictions is not None
        with (
            nullcontext() if stopped else pytest.raises(AgentError, match="a process that judges recordings has ended")
        ):
            assert list(predictions) == []


def test_ctrl_c_is_left_to_the_parent(judge: Judge) -> None:
    """It goes to all processes of a terminal; those that judge do not hear it, from their first instruction on."""
    crew = Processes(judge.config, 2)

    status = [Path(f"/proc/{worker.pid}/status").read_text() for worker, _ in crew._processes]
    crew.close()

    masks = [int(text.split("SigBlk:")[1].split()[0], 16) for text in status]
    assert [mask >> (signal.SIGINT - 1) & 1 for mask in masks] == [1, 1]


@pytest.mark.parametrize(
    ("duration_s", "cores", "expected"),
    [(0, 8, 1), (WORTH_S, 8, 1), (2 * WORTH_S, 8, 2), (100 * WORTH_S, 8, 8), (100 * WORTH_S, 1, 1)],
)
def test_as_many_processes_as_the_sound_is_worth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, duration_s: float, cores: int, expected: int
) -> None:
    """Few recordings are not worth a process; never are there more than cores; what is no recording counts nothing."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: set(range(cores)))
    (tmp_path / "none.wav").write_bytes(b"no recording")
    files = [tmp_path / "none.wav", *(sparse_wav(tmp_path / f"{n}.wav", round(duration_s) // 4) for n in range(4))]

    assert worthwhile(files, "mix") == expected


def kill(crew: Processes) -> None:
    for process, _ in crew._processes:
        process.kill()


def children_of(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def command_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except FileNotFoundError:
        return ""


def are_gone(processes: list[int]) -> Callable[[], bool]:
    return lambda: all(command_of(process) == "" for process in processes)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_no_process_is_left_behind(
    urbansound: CommandFactory, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """However a replay is ended, its processes end with it, and none of them complains."""
    replayed = urbansound("replay", "--jobs", "2", sparse_wav(tmp_path / "day.wav", 24 * 3600))
    wait_until(lambda: len(children_of(replayed.process.pid)) == 3, "two processes, and the tracker of semaphores")
    children = children_of(replayed.process.pid)

    for process in [replayed.process.pid, *(children if number != signal.SIGKILL else [])]:  # as from a terminal
        os.kill(process, number)

    assert replayed.wait() == code
    wait_until(are_gone(children), "no children")
    if number != signal.SIGKILL:  # then Python's own tracker of semaphores says that it had to clean up
        assert replayed.stderr == ""


def test_processes_leave_a_part_that_nobody_wants(judge: Judge, tmp_path: Path) -> None:
    """A replay that ends early does not wait until a day of sound is judged."""
    crew = Processes(judge.config, 1)
    ((_, asked),) = crew._processes
    asked.send(Part(sparse_wav(tmp_path / "day.wav", 24 * 3600), "mix", 0, None, lead=0))

    asked.send(None)  # as `close` does
    answer = asked.recv()
    crew.close()

    assert isinstance(answer, Judged)
    assert answer.until < 3600 * 8_000


def test_too_many_processes_are_said(urbansound: CommandFactory, tmp_path: Path) -> None:
    """Where the system starts no more of them, those that it has started end as well: an error, not a wait for good."""
    replayed = urbansound("replay", "--jobs", "20", sparse_wav(tmp_path / "day.wav", 24 * 3600))
    resource.prlimit(replayed.process.pid, resource.RLIMIT_NOFILE, (40, 40))

    assert replayed.wait() == 2
    assert replayed.stderr == "urbansound: --jobs 20: cannot start so many processes (Too many open files)\n"
