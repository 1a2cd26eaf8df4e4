"""Promises of `agent.cluster`: a Dask cluster judges, and nobody can tell it from what is told."""

import os
import signal
import socket
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import distributed
import numpy as np
import pytest
import soundfile

from agent.app import Judge
from agent.cluster import Cluster, judge_part
from agent.config import Config, MqttConfig
from agent.errors import AgentError, ClusterError, ModelError
from agent.replay import replay
from agent.stop import Stop
from agent.values import SoundEvent
from agent.wavfile import Source, open_recording
from agent.workers import Part, Workers, judging_alone
from tests.broker import free_port, wait_until
from tests.commands import Caller, CommandFactory
from tests.test_workers import sparse_wav
from tests.wail import wail

RATE_HZ = 8_000
LONG_S = 610.3  # six parts


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("street")
    samples = wail(LONG_S, RATE_HZ, quietest=-3.0)  # events
    soundfile.write(folder / "a-long.flac", samples, RATE_HZ)
    soundfile.write(folder / "b-long.wav", np.roll(samples, 999), RATE_HZ)
    soundfile.write(folder / "c-short.wav", samples[: 20 * RATE_HZ], RATE_HZ)
    return folder


@pytest.fixture(scope="module")
def dask() -> Iterator[distributed.LocalCluster]:
    """A scheduler and two worker processes on this machine, each with two threads."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=2, processes=True, host="127.0.0.1", dashboard_address=":0"
    ) as cluster:
        yield cluster


@pytest.fixture
def lone() -> Iterator[distributed.LocalCluster]:
    """A scheduler and one worker."""
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=":0"
    ) as cluster:
        yield cluster


def events_of(file: Source, judge: Judge, workers: Workers | None = None) -> list[str]:
    events: list[SoundEvent] = []
    with open_recording(file) as recording:
        replay(recording, judge, events.append, stop=Stop(), workers=workers)
    return [repr(event) for event in events]


def test_a_killed_worker_changes_nothing(dask: distributed.LocalCluster, street: Path, judge: Judge) -> None:
    """A worker process is killed while it judges: the same events as in one process, to the last bit."""
    files: list[Source] = sorted(street.iterdir())
    expected = [events_of(file, judge) for file in files]
    victim = dask.workers[0].pid

    with Workers(judge, Cluster(dask.scheduler_address, judge), files, "mix", stop=Stop()) as workers:
        told = []
        with open_recording(files[0]) as recording:
            predictions = workers.predictions(recording)
            assert predictions is not None
            next(predictions)  # parts are judged now, by both
            os.kill(victim, signal.SIGKILL)
            assert sum(1 for _ in predictions) > 6000
        told = [events_of(file, judge, workers) for file in files[1:]]

    assert told == expected[1:]
    assert sum(len(events) for events in told) > 2


def test_the_command_gives_the_same_output(
    dask: distributed.LocalCluster, street: Path, call: Caller, tmp_path: Path
) -> None:
    """`replay --dask`, recordings by path and by address: the events of one process, to the last byte."""
    archive = tmp_path / "day.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in sorted(street.iterdir()):
            packed.write(file, file.name)

    alone = call("replay", "--jobs", "1", "--format", "csv", street)
    shared = call("replay", "--dask", dask.scheduler_address, "--format", "csv", street)
    packed_up = call("replay", "--dask", dask.scheduler_address, "--format", "csv", f"zip://*::file://{archive}")

    assert alone.out.count("\n") > 2
    assert shared == alone
    assert packed_up.out.replace("zip://", f"{street}/").replace(f"::file://{archive}", "") == alone.out


def test_no_cluster_is_said(judge: Judge) -> None:
    """Nobody there, or nobody who works."""
    with pytest.raises(ClusterError, match="no scheduler answers"):
        Cluster(f"tcp://127.0.0.1:{free_port()}", judge)
    with (
        distributed.LocalCluster(n_workers=0, processes=True, host="127.0.0.1", dashboard_address=":0") as empty,
        pytest.raises(ClusterError, match="has no workers"),
    ):
        Cluster(empty.scheduler_address, judge)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "missing port number"),
        ("what://is this", "unknown address scheme"),
        ("tls://127.0.0.1:1", "TLS expects"),  # and Dask's configuration names no certificate
    ],
)
def test_an_address_that_cannot_be_a_cluster_is_said(
    urbansound: CommandFactory, street: Path, address: str, reason: str
) -> None:
    """In one line, with the exit code of a cluster that is not there."""
    command = urbansound("replay", "--dask", address, street / "c-short.wav")

    assert (command.wait(), command.lines) == (69, [])
    assert command.stderr.startswith(f"urbansound: --dask {address}: no scheduler answers ({reason}")
    assert command.stderr.count("\n") == 1


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"], ids=["nothing", "ssh"])
def test_who_is_no_scheduler_is_said(judge: Judge, monkeypatch: pytest.MonkeyPatch, greeting: bytes) -> None:
    """Who takes the connection and is something else, such as Dask's dashboard, is not waited for."""
    monkeypatch.setattr("agent.cluster.CONNECT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as threads:
        taken = threads.submit(server.accept)
        threads.submit(lambda: taken.result()[0].sendall(greeting))

        with pytest.raises(ClusterError, match="no scheduler answers"):
            Cluster(f"tcp://127.0.0.1:{server.getsockname()[1]}", judge)

        taken.result()[0].close()


def test_a_cluster_that_goes_away_is_said(street: Path, judge: Judge) -> None:
    """The scheduler ends in the middle: an error that says so, not a wait for good; and no more is asked of it."""
    file = street / "a-long.flac"
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=":0"
        ) as cluster,
        Workers(judge, crew := Cluster(cluster.scheduler_address, judge), [file], "mix", stop=Stop()) as workers,
        open_recording(file) as recording,
    ):
        predictions = workers.predictions(recording)
        assert predictions is not None
        next(predictions)
        cluster.close()
        with pytest.raises(AgentError, match="the cluster does not go on"):
            list(predictions)
        wait_until(lambda: crew._client.status == "closed", "the client to give up")
        with pytest.raises(ClusterError, match="the cluster does not go on"):
            crew.submit(Part(file, "mix", 0, None, lead=0))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_wait_for_workers_can_be_left(
    lone: distributed.LocalCluster, urbansound: CommandFactory, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """The only worker is switched off: a signal ends the replay, which waits for another."""
    replayed = urbansound("replay", "--dask", lone.scheduler_address, sparse_wav(tmp_path / "day.wav", 24 * 3600))
    wait_until(lambda: lone.scheduler.tasks, "parts that are judged")
    lone.scale(0)
    wait_until(lambda: not lone.scheduler.workers, "no worker")

    replayed.signal(number)

    assert replayed.wait() == code, replayed.stderr
    assert (replayed.lines, replayed.stderr) == ([], "")


def test_a_cluster_without_workers_is_said(
    lone: distributed.LocalCluster, judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only worker is switched off, and no other comes: that is an error after a while."""
    monkeypatch.setattr("agent.workers.ALONE_S", 0.5)
    day = sparse_wav(tmp_path / "day.wav", 24 * 3600)

    with (
        Workers(judge, Cluster(lone.scheduler_address, judge), [day], "mix", stop=Stop()) as workers,
        open_recording(day) as recording,
    ):
        predictions = workers.predictions(recording)
        assert predictions is not None
        next(predictions)
        lone.scale(0)
        with pytest.raises(ClusterError, match=r"the cluster does not go on \(no worker has been there for"):
            list(predictions)


def test_workers_must_be_the_same_agent(judge: Judge, street: Path) -> None:
    """Another model or another version on a worker would give other events: it is refused."""
    config = judging_alone(judge.config).model_dump_json()
    part = Part(street / "c-short.wav", "mix", 0, None, lead=0)

    with pytest.raises(ModelError, match="a worker has a model with sha256"):
        judge_part(config, "0" * 64, judge_part.__globals__["__version__"], part)
    with pytest.raises(ModelError, match=r"version .* expected 9\.9"):
        judge_part(config, judge.model.sha256, "9.9", part)


def test_no_secret_leaves_for_a_cluster() -> None:
    """What workers are told of the configuration is the model and the rules, not the broker and its password."""
    secret = Config(mqtt=MqttConfig(host="broker.example", username="node", password="hush"))  # type: ignore[arg-type]

    sent = judging_alone(secret).model_dump_json()

    assert "hush" not in sent
    assert "broker.example" not in sent


def test_only_as_fast_as_it_goes(call: Caller, street: Path) -> None:
    """A pace and a cluster exclude each other."""
    said = call("replay", "--dask", "tcp://127.0.0.1:1", "--realtime", street)

    assert (said.code, said.out) == (2, "")
    assert "--dask tcp://127.0.0.1:1" in said.err
