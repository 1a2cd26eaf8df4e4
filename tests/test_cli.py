"""Promises of `urbansound`: what a person types, reads and pipes, and the codes with which it leaves."""

import csv
import io
import json
import os
import pty
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from agent import portaudio
from agent.config import Config, load_config
from agent.coverage import Tally
from agent.hours import Hours
from agent.level import LEAST_BACKGROUND_S
from agent.printout import INTERVAL_COLUMNS
from tests.broker import HOST, Broker, BrokerFactory, SubscriberFactory, wait_until
from tests.commands import Caller, CommandFactory
from tests.conftest import REPOSITORY
from tests.sound_server import SAMPLE_RATE_HZ, SoundServer
from tests.street import Sound, silence
from tests.test_progress import CLEAR

EVENT = "urbansound/node/street/event"
START = "2026-01-01T12:00:00Z"


def rows_of(lines: str | Sequence[str]) -> list[dict[str, Any]]:
    """JSON lines as a program reads them."""
    return [json.loads(line) for line in (lines.splitlines() if isinstance(lines, str) else lines)]


def without_file(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "file"} for row in rows]


@pytest.fixture
def noise_file(tmp_path: Path) -> Path:
    """Two seconds of noise."""
    noise = np.random.default_rng(4).normal(0.0, 0.05, 32_000).astype(np.float32)
    soundfile.write(tmp_path / "noise.wav", noise, 16_000)
    return tmp_path / "noise.wav"


@pytest.fixture
def published(broker: Broker, tmp_path: Path) -> Path:
    """A configuration for a broker that runs."""
    return write_config(tmp_path, broker.port)


def write_config(folder: Path, port: int) -> Path:
    file = folder / "agent.toml"
    file.write_text(f'[mqtt]\nhost = "{HOST}"\nport = {port}\n[spool]\npath = "{folder}/spool/spool.sqlite"\n')
    return file


# What cannot be


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("replay", "--jobs", "2", "--speed", "8", "a.wav"),
            "--jobs 2: is for as fast as it goes, expected no --speed",
        ),
        (("replay", "-"), "- reads raw PCM: --rate is missing, expected samples per second"),
        (("replay", "--coverage", "c", "--jobs", "2", "x.wav"), "--jobs 2: expected no --coverage"),
        (("replay", "--channels", "2", "x.wav"), "--channels 2: is for raw PCM, expected - among what is heard"),
        (("classify", "--rate", "8000", "x.wav"), "--rate 8000: is for raw PCM, expected -"),
        (("classify", "--format", "u8", "x.wav"), "--format u8: is for raw PCM, expected -"),
    ],
)
def test_words_that_do_not_go_together_are_said(call: Caller, arguments: tuple[str, ...], message: str) -> None:
    """What each word alone may mean and both may not ends with 2 and one line that says what was expected."""
    said = call(*arguments)

    assert (said.code, said.out) == (2, "")
    assert message in said.err


# Replay


def test_replay_prints_the_finished_events(call: Caller, street: Sound) -> None:
    """One JSON object a line, for each event when it has ended, in seconds from the start of the file."""
    said = call("replay", street.file)

    rows = rows_of(said.out)
    assert (said.code, said.err) == (0, "")
    assert [row["label"] for row in rows] == ["siren", "dog_bark", "gun_shot", "jackhammer", "siren"]
    for row in rows:
        assert list(row) == [
            "file",
            "label",
            "onset_s",
            "offset_s",
            "duration_s",
            "likelihood_peak",
            "likelihood_mean",
            "laeq_db",
            "lafmax_db",
            "sel_db",
            *(["background_la90_db"] if row["onset_s"] >= LEAST_BACKGROUND_S else []),
            "calibrated",
            "end_reason",
        ]
        assert row["file"] == str(street.file)
        assert row["duration_s"] == round(row["offset_s"] - row["onset_s"], 3)
        assert 0.0 <= row["onset_s"] < row["offset_s"] <= street.duration_s
        assert 0.0 < row["likelihood_mean"] <= row["likelihood_peak"] <= 1.0
        assert -70.0 < row["laeq_db"] <= row["lafmax_db"] < 0.0


def test_replay_says_the_same_twice(urbansound: CommandFactory, corner: Sound) -> None:
    """Two replays of a street, in two processes, are equal byte by byte."""
    first, second = (urbansound("replay", corner.file) for _ in range(2))

    assert (first.wait(), second.wait()) == (0, 0)
    assert first.lines == second.lines
    assert len(first.lines) == 2


@pytest.mark.parametrize("command", ["replay", "classify"])
def test_several_processes_say_the_same(
    urbansound: CommandFactory, noise_file: Path, corner: Sound, tmp_path: Path, command: str
) -> None:
    """With more processes the output is equal byte by byte, what cannot be read included, and in the same order."""
    (tmp_path / "none.wav").write_bytes(b"no recording")
    files = [corner.file, noise_file, tmp_path / "none.wav", tmp_path / "again.wav"]
    files[-1].symlink_to(corner.file)

    one, two = (urbansound(command, "--jobs", jobs, *files) for jobs in ("1", "2"))

    assert (one.wait(), two.wait()) == (3, 3)
    assert one.lines == two.lines
    assert one.stderr == two.stderr != ""
    assert len(one.lines) >= 3


def test_the_formats_say_the_same(call: Caller, corner: Sound, tmp_path: Path) -> None:
    """JSON lines, CSV with a header, and text for people are three forms of the same events."""
    file = tmp_path / "20260101_120000.wav"
    file.symlink_to(corner.file)

    rows = rows_of(call("replay", file).out)
    table = list(csv.DictReader(io.StringIO(call("replay", "--format", "csv", file).out)))
    text = call("replay", "--format", "text", file).out.splitlines()

    printed = [{key: str(value) for key, value in row.items()} | {"calibrated": "false"} for row in rows]
    assert [{key: value for key, value in row.items() if value} for row in table] == printed
    assert len(rows) == len(text) == 2
    for row, line in zip(rows, text, strict=True):
        times = f"{row['onset_s']:.3f} s", f"{row['offset_s']:.3f} s"
        assert all(part in line for part in (row["file"], row["label"], *times))


@pytest.mark.parametrize(
    ("recording", "start"),
    [
        (("20260101_120000.wav",), "2026-01-01T12:00:00Z"),
        (("20260101_120000.wav", "--start", "2025-05-05T05:05:05.5+02:00"), "2025-05-05T03:05:05.5Z"),
        (("street.wav", "--start", START), START),
        (("street.wav",), None),
    ],
)
def test_events_have_a_date_where_one_is_known(
    call: Caller, wail: Sound, tmp_path: Path, recording: tuple[str, ...], start: str | None
) -> None:
    """The start of a recording is what `--start` says, else what its name says, else nobody knows it."""
    name, *arguments = recording
    file = tmp_path / name
    file.symlink_to(wail.file)

    (row,) = rows_of(call("replay", *arguments, file).out)

    if start is None:
        assert "start" not in row
        assert "end" not in row
        return
    began = datetime.fromisoformat(start)
    for time, seconds in (("start", "onset_s"), ("end", "offset_s")):
        assert datetime.fromisoformat(row[time]) == began + timedelta(seconds=row[seconds])


def test_a_recording_in_an_archive_has_a_date_of_its_own(call: Caller, wail: Sound, tmp_path: Path) -> None:
    """Its name in the archive says when it began, and not that of the archive."""
    archive = tmp_path / "archive_20240101_000000.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(wail.file, "20260101_120000.wav")

    (row,) = rows_of(call("replay", f"zip://*::file://{archive}").out)

    began = datetime.fromisoformat(START)
    assert datetime.fromisoformat(row["start"]) == began + timedelta(seconds=row["onset_s"])


def test_one_start_is_for_one_recording(call: Caller, noise_file: Path, wail: Sound) -> None:
    """`--start` with two recordings would date one of them wrongly, and is refused."""
    said = call("replay", "--start", START, noise_file, wail.file)

    assert said.code == 2
    assert "--start: says when one recording began, and there are 2" in said.err


@pytest.mark.parametrize("form", ["s16le", "f32le"])
def test_raw_pcm_from_standard_input_is_the_recording(
    urbansound: CommandFactory, call: Caller, wail: Sound, form: str
) -> None:
    """What `arecord` pipes in gives the events of the same sound in a file; `--format` names what comes in and out."""
    pcm = wail.samples if form == "s16le" else wail.samples.astype("<f4") / np.float32(32768)
    expected = rows_of(call("replay", wail.file).out)

    arguments = ("--rate", str(SAMPLE_RATE_HZ), "--format", form, "--format", "csv")
    piped = urbansound("replay", "-", *arguments, stdin=subprocess.PIPE)
    assert piped.process.stdin is not None
    piped.process.stdin.write(pcm.tobytes())
    piped.process.stdin.close()

    assert piped.wait() == 0, piped.stderr
    table = list(csv.DictReader(piped.lines))
    assert [row["file"] for row in table] == ["-"] * len(expected)
    assert [(row["label"], row["onset_s"], row["offset_s"], row["likelihood_peak"]) for row in table] == [
        (row["label"], str(row["onset_s"]), str(row["offset_s"]), str(row["likelihood_peak"])) for row in expected
    ]


def test_a_channel_can_be_chosen(call: Caller, wail: Sound, tmp_path: Path) -> None:
    """`--channel 2` hears the second channel alone."""
    both = np.stack([np.zeros_like(wail.samples), wail.samples], axis=1)
    soundfile.write(tmp_path / "stereo.wav", both, SAMPLE_RATE_HZ)

    assert rows_of(call("replay", "--channel", "1", tmp_path / "stereo.wav").out) == []
    second = rows_of(call("replay", "--channel", "2", tmp_path / "stereo.wav").out)
    assert without_file(second) == without_file(rows_of(call("replay", wail.file).out))


def test_the_form_of_the_network_can_be_chosen(call: Caller, wail: Sound, tmp_path: Path) -> None:
    """`--inference` wins over the file, which asks here for what cannot be: half a chunk cannot be streamed."""
    config = tmp_path / "agent.toml"
    config.write_text('[inference]\nform = "streaming"\nwindow_hop_s = 0.05\n')

    as_configured = call("replay", "--config", config, wail.file)
    windowed = call("replay", "--config", config, "--inference", "windowed", wail.file)

    assert (as_configured.code, as_configured.out) == (78, "")
    assert "inference.form = 'streaming'" in as_configured.err
    assert (windowed.code, windowed.err) == (0, "")
    assert [row["label"] for row in rows_of(windowed.out)] == ["siren"]


@pytest.mark.parametrize(
    "words", [["run"], ["replay", "x.wav"], ["classify", "x.wav"], ["bench"]], ids=lambda words: words[0]
)
def test_each_command_that_hears_takes_the_form(
    call: Caller, tmp_path: Path, noise_file: Path, words: list[str]
) -> None:
    """What the file would allow, `--inference` asks for in a form that does not fit the hop: it is this that counts."""
    config = tmp_path / "agent.toml"
    config.write_text(f'[inference]\nwindow_hop_s = 0.05\n[spool]\npath = "{tmp_path}/spool.sqlite"\n')
    command, *files = words

    said = call(command, "--config", config, "--inference", "streaming", *(noise_file for _ in files))

    assert said.code == 78
    assert "inference.form = 'streaming'" in said.err


def test_a_folder_is_walked(call: Caller, noise_file: Path, wail: Sound, tmp_path: Path) -> None:
    """All recordings below a folder are replayed, in the order of their names; other files are not looked at."""
    folder = tmp_path / "week"
    (folder / "monday").mkdir(parents=True)
    for name in ("monday/b.wav", "monday/a.wav", "z.wav"):
        (folder / name).symlink_to(wail.file)
    (folder / "notes.txt").write_text("nothing to hear")

    said = call("replay", folder)

    assert said.code == 0
    assert [Path(row["file"]).relative_to(folder).as_posix() for row in rows_of(said.out)] == [
        "monday/a.wav",
        "monday/b.wav",
        "z.wav",
    ]


def test_a_name_that_is_not_text_goes_through(urbansound: CommandFactory, wail: Sound, tmp_path: Path) -> None:
    """Names of files are bytes; one from an old system in Latin-1 is printed as it is."""
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    file.symlink_to(wail.file)

    replayed = urbansound("replay", "--format", "text", file)

    assert replayed.wait() == 0, replayed.stderr
    assert [line.partition("  ")[0] for line in replayed.lines] == [str(file)]


def test_ctrl_c_in_a_replay_ends_what_is_open(
    urbansound: CommandFactory, published: Path, broker: Broker, subscribe: SubscriberFactory, siren: Sound
) -> None:
    """Ctrl-C in the middle of a siren: its end is printed and published, then the exit code is 130."""
    subscriber = subscribe(broker.options())
    arguments = ("--realtime", "--publish", "--start", START, "--config", published, siren.file, siren.file.parent)
    replayed = urbansound("replay", *arguments)
    subscriber.wait_for(1, EVENT)

    replayed.signal(signal.SIGINT)

    assert replayed.wait() == 130
    (row,) = rows_of(replayed.lines)
    start, end = rows_of([payload.decode() for payload in subscriber.wait_for(2, EVENT)])
    assert row["end_reason"] == end["end_reason"] == "shutdown"
    assert (start["event_type"], end["event_type"], end["replayed"]) == ("start", "end", True)
    assert row["end"] == end["end"]
    assert row["offset_s"] < siren.duration_s / 2


def test_a_terminal_shows_how_far_it_is_between_the_results(corner: Sound) -> None:
    """Where a person looks, a bar comes and goes, and each result stands on a line of its own."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "agent.cli", "replay", "--speed", "10", str(corner.file)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=slave, stdout=slave, stderr=slave) as replayed:
        os.close(slave)
        shown = b""
        with suppress(OSError):  # the terminal's own way to say that nobody is there any more
            while part := os.read(master, 4096):
                shown += part
    os.close(master)

    assert replayed.returncode == 0
    assert re.search(rb"%  ?\d+x real time  corner.wav", shown)
    lines = [line.rpartition(CLEAR)[2] for line in shown.decode().split("\r\n")]
    assert [row["label"] for row in rows_of([line for line in lines if line])] == ["dog_bark", "gun_shot"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_silent_standard_input_can_be_left(
    urbansound: CommandFactory, wail: Sound, number: signal.Signals, code: int
) -> None:
    """When the program that pipes sound in says nothing more, a signal still ends the replay, and what is open."""
    replayed = urbansound("replay", "-", "--rate", str(SAMPLE_RATE_HZ), stdin=subprocess.PIPE)
    assert replayed.process.stdin is not None
    three = [wail.samples, silence(2.0), wail.samples, silence(2.0), wail.samples]
    replayed.process.stdin.write(np.concatenate(three).tobytes())
    replayed.process.stdin.flush()
    wait_until(lambda: len(replayed.lines) >= 2, "two sirens")

    replayed.signal(number)

    assert replayed.wait() == code
    assert [row["end_reason"] for row in rows_of(replayed.lines)] == ["quiet", "quiet", "shutdown"]


# Publishing a recording


def test_a_replay_is_published(
    urbansound: CommandFactory, published: Path, broker: Broker, subscribe: SubscriberFactory, corner: Sound
) -> None:
    """With `--publish` subscribers get what is printed: the same labels and times, marked as replayed, start to end."""
    subscriber = subscribe(broker.options())

    replayed = urbansound("replay", "--publish", "--start", START, "--config", published, corner.file)

    assert replayed.wait() == 0, replayed.stderr
    rows = rows_of(replayed.lines)
    events = rows_of([payload.decode() for payload in subscriber.wait_for(2 * len(rows), EVENT)])
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert all(event["replayed"] for event in events)
    ends = [event for event in events if event["event_type"] == "end"]
    assert [(end["label"], end["start"], end["likelihood_peak"], end["end_reason"]) for end in ends] == [
        (row["label"], row["start"], row["likelihood_peak"], row["end_reason"]) for row in rows
    ]
    durations_s = [end["duration_s"] for end in ends]
    np.testing.assert_allclose(durations_s, [row["duration_s"] for row in rows], atol=0.0011)  # rounded twice
    assert {message.topic for message in subscriber.messages} == {EVENT}, "the node's state is the sensor's to tell"


def test_a_replay_that_cannot_be_published_is_kept_for_the_next(
    urbansound: CommandFactory, make_broker: BrokerFactory, subscribe: SubscriberFactory, corner: Sound, tmp_path: Path
) -> None:
    """Without a broker the events are printed, 69 says that they wait, and the next replay delivers them first."""
    broker = make_broker()
    arguments = ("--publish", "--start", START, "--config", write_config(tmp_path, broker.port), corner.file)

    alone = urbansound("replay", *arguments)

    assert alone.wait() == 69
    assert len(alone.lines) == 2
    why = f"MQTT broker {HOST}:{broker.port}: connection refused"
    assert alone.log[-1] == f"urbansound: 4 messages wait in the spool for the next replay that publishes; {why}\n"
    subscriber = subscribe(broker.start().options())
    assert urbansound("replay", *arguments).wait() == 0
    subscriber.wait_for(8, EVENT)
    assert subscriber.seqs(EVENT) == list(range(1, 9))


def test_now_is_when_the_replay_begins(
    urbansound: CommandFactory, published: Path, broker: Broker, subscribe: SubscriberFactory, siren: Sound
) -> None:
    """`--start now --realtime` plays a recording as if it happened now: an event is told after it began, not before."""
    subscriber = subscribe(broker.options())

    replayed = urbansound("replay", "--publish", "--start", "now", "--realtime", "--config", published, siren.file)
    (payload,) = subscriber.wait_for(1, EVENT)
    told_at = datetime.now().astimezone()
    replayed.signal(signal.SIGINT)

    age = told_at - datetime.fromisoformat(json.loads(payload)["start"])
    assert timedelta(0) < age < timedelta(seconds=10)
    replayed.wait()


def test_what_has_no_date_is_not_published(call: Caller, published: Path, wail: Sound, noise_file: Path) -> None:
    """A recording of which nobody knows when it began is named, and left out of the publication."""
    said = call("replay", "--publish", "--config", published, wail.file)

    assert (said.code, said.out) == (3, "")
    assert f"urbansound: {wail.file}: nobody knows when it began; to publish it, say it with --start" in said.err


@pytest.mark.parametrize("broker_goes", [False, True])
def test_a_full_disk_under_the_spool_is_said(
    urbansound: CommandFactory, published: Path, broker: Broker, wail: Sound, broker_goes: bool
) -> None:
    """Events that cannot be kept are delivered all the same. If they cannot: 74, the spool's name, and how many."""
    arguments = ("--publish", "--start", START, "--config", published, "--rate", str(SAMPLE_RATE_HZ))
    replayed = urbansound("replay", "-", *arguments, stdin=subprocess.PIPE)
    replayed.wait_for_log("mqtt.connected")
    resource.prlimit(replayed.process.pid, resource.RLIMIT_FSIZE, (0, 0))
    if broker_goes:
        broker.kill()

    assert replayed.process.stdin is not None
    replayed.process.stdin.write(wail.samples.tobytes())
    replayed.process.stdin.close()

    assert replayed.wait() == (74 if broker_goes else 0)
    assert f"spool {published.parent}/spool/replay-spool.sqlite: cannot be used" in replayed.stderr
    assert replayed.stderr.rstrip().endswith("2 messages are lost") == broker_goes
    assert "Traceback" not in replayed.stderr


# A reader that goes away


def closed_pipe() -> int:
    """The writing end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize(
    "arguments",
    [("replay", "CORNER"), ("replay", "--format", "csv", "CORNER"), ("classify", "CORNER"), ("check", "CONFIG")],
)
def test_a_closed_standard_output_is_said(
    urbansound: CommandFactory, corner: Sound, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """`| head -0`: one line says that nobody reads, with 74, and no traceback."""
    places = {"CORNER": str(corner.file), "CONFIG": str(write_config(tmp_path, 1883))}
    writer = closed_pipe()

    piped = urbansound(*(places.get(argument, argument) for argument in arguments), stdout=writer)
    os.close(writer)

    assert piped.wait() == 74
    assert piped.stderr == "urbansound: standard output: cannot be written (Broken pipe), the rest is lost\n"


def in_shell(redirection: str, *arguments: str | Path, stderr: int) -> tuple[int, bytes]:
    """What a command whose streams a shell has closed leaves: its exit code, and standard output."""
    said = subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {redirection}', sys.executable, "-m", "agent.cli", *map(str, arguments)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=stderr,
        timeout=60,
        check=False,
    )
    return said.returncode, said.stdout


@pytest.mark.parametrize("redirection", ["", "2>&-"])
def test_an_error_that_nobody_reads_keeps_its_exit_code(tmp_path: Path, redirection: str) -> None:
    """Standard error was closed, by who read it or from the start: the code still says what kind of error it is."""
    writer = closed_pipe()

    code, out = in_shell(redirection, "check", tmp_path / "none.toml", stderr=writer)
    os.close(writer)

    assert (code, out) == (78, b"")


@pytest.mark.parametrize("redirection", ["", "2>&-"])
def test_errors_that_nobody_reads_lose_no_event(corner: Sound, tmp_path: Path, redirection: str) -> None:
    """The same where some recordings fail: the others are heard, and nothing else is among their events."""
    writer = closed_pipe()
    missing = (tmp_path / "a.wav", tmp_path / os.fsdecode(b"caf\xe9.wav"))

    code, out = in_shell(redirection, "replay", *missing, corner.file, stderr=writer)
    os.close(writer)

    assert code == 3
    assert [row["label"] for row in rows_of(out.decode())] == ["dog_bark", "gun_shot"]


@pytest.mark.parametrize(
    ("redirection", "arguments", "expected"),
    [
        (">&-", ("replay", "CORNER"), (74, "standard output: cannot be written")),
        (">&-", ("replay", "--format", "parquet", "CORNER"), (74, "standard output: cannot be written")),
        (">&-", ("classify", "CORNER"), (74, "standard output: cannot be written")),
        ("<&-", ("replay", "--rate", "16000", "-"), (3, "standard input: cannot be read")),
    ],
)
def test_streams_that_were_closed_from_the_start_are_said(
    corner: Sound, tmp_path: Path, redirection: str, arguments: tuple[str, ...], expected: tuple[int, str]
) -> None:
    """`>&-`, as under a supervisor that gives none: the documented exit code, and no traceback."""
    code, message = expected
    with (tmp_path / "errors").open("wb") as errors:
        words = [str(corner.file) if word == "CORNER" else word for word in arguments]

        assert in_shell(redirection, *words, stderr=errors.fileno()) == (code, b"")
    said = (tmp_path / "errors").read_text(encoding="utf-8")
    assert said.startswith(f"urbansound: {message}")
    assert said.count("\n") == 1


def test_a_full_disk_under_standard_output_is_said(urbansound: CommandFactory, corner: Sound) -> None:
    """`> file` on a full disk: the same."""
    with Path("/dev/full").open("wb") as full:
        written = urbansound("replay", corner.file, stdout=full)

        assert written.wait() == 74
    assert written.stderr == (
        "urbansound: standard output: cannot be written (No space left on device), the rest is lost\n"
    )


def test_a_closed_standard_output_loses_nothing_that_is_published(
    urbansound: CommandFactory, published: Path, broker: Broker, subscribe: SubscriberFactory, street: Sound
) -> None:
    """When nobody reads what is printed, the replay stops; what was published arrives, and nothing stays open."""
    subscriber = subscribe(broker.options())
    writer = closed_pipe()

    piped = urbansound("replay", "--publish", "--start", START, "--config", published, street.file, stdout=writer)
    os.close(writer)

    assert piped.wait() == 74
    assert "standard output: cannot be written (Broken pipe)" in piped.stderr
    events = rows_of([payload.decode() for payload in subscriber.wait_for(4, EVENT)])  # the dog came meanwhile
    assert [event["event_type"] for event in events if event["label"] == "siren"] == ["start", "end"]
    with closing(sqlite3.connect(published.parent / "spool" / "replay-spool.sqlite")) as spool:
        assert spool.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
        assert spool.execute("SELECT count(*) FROM open_events").fetchone() == (0,)


# Classify


def test_classify_names_each_clip(call: Caller, recordings: Path, wail: Sound) -> None:
    """CSV with a header; the label is the class with the largest sum, and JSON lines have all of them."""
    clip = recordings / "urbansound8k" / "fold2" / "123688-8-1-0.ogg"

    table = list(csv.DictReader(io.StringIO(call("classify", clip, wail.file).out)))
    rows = rows_of(call("classify", "--format", "jsonl", clip, wail.file).out)

    assert [list(row) for row in table] == [["file", "label", "likelihood"]] * 2
    assert {row["file"]: row["label"] for row in table} == {str(clip): "siren", str(wail.file): "siren"}
    for row in rows:
        assert row["likelihoods"][row["label"]] == max(row["likelihoods"].values()) == row["likelihood"]
        assert row["n_windows"] > 1
        assert len(row["likelihoods"]) == 11


# Levels


def test_levels_of_a_calibrator_calibrate(call: Caller, tmp_path: Path) -> None:
    """What full scale is follows from its tone, and with that in the configuration the tone has its sound pressure."""
    tone, config = tmp_path / "tone.wav", tmp_path / "agent.toml"
    samples = 0.05 * np.sin(2 * np.pi * 1_000.0 * np.arange(10 * 48_000) / 48_000)
    soundfile.write(tone, samples, 48_000, subtype="PCM_16")

    (row,) = csv.DictReader(io.StringIO(call("levels", tone).out))
    config.write_text(f"[audio]\nfull_scale_db = {94.0 - float(row['laeq_db'])}\n")
    (calibrated,) = rows_of(call("levels", "--config", config, "--format", "jsonl", tone).out)

    assert (row["laeq_db"], row["duration_s"], row["calibrated"]) == ("-26.0", "10.0", "false")
    assert [calibrated[key] for key in ("laeq_db", "lafmax_db", "la10_db", "la50_db")] == [94.0] * 4
    assert calibrated["calibrated"] is True


def test_levels_of_minutes_lie_on_the_marks_of_utc(call: Caller, tmp_path: Path) -> None:
    """Where its name says when it began; else they are counted from its beginning."""
    loud, faint = np.full(10 * 8_000, 0.5), np.full(10 * 8_000, 0.005)
    tone = np.sin(2 * np.pi * 1_000.0 * np.arange(20 * 8_000) / 8_000)
    dated, other = tmp_path / "street_20260101_115950.wav", tmp_path / "street.wav"
    for file in (dated, other):
        soundfile.write(file, np.concatenate([loud, faint]) * tone, 8_000, subtype="PCM_24")

    rows = rows_of(call("levels", "--interval", "60", "--format", "jsonl", dated, other).out)
    (said,) = csv.DictReader(
        io.StringIO(call("levels", "--interval", "60", "--start", "2026-01-01T00:00:00Z", other).out)
    )

    by_file = {Path(file).name: [row for row in rows if row["file"] == file] for file in map(str, (dated, other))}
    assert [(row["onset_s"], row["duration_s"], row["start"], row["end"]) for row in by_file[dated.name]] == [
        (0.0, 10.0, "2026-01-01T11:59:50.000Z", "2026-01-01T12:00:00.000Z"),
        (10.0, 10.0, "2026-01-01T12:00:00.000Z", "2026-01-01T12:00:10.000Z"),
    ]
    assert [row["laeq_db"] for row in by_file[dated.name]] == pytest.approx([-6.0, -46.0], abs=1.0)
    (whole,) = by_file[other.name]
    assert (whole["onset_s"], whole["duration_s"], whole["silent_s"], "start" in whole) == (0.0, 20.0, 0.0, False)
    assert said["start"] == "2026-01-01T00:00:00.000Z"
    assert list(said) == list(INTERVAL_COLUMNS)


@pytest.mark.parametrize("interval", ["0", "7", "3601", "1.5"])
def test_an_interval_that_does_not_divide_the_hour_is_refused(call: Caller, interval: str) -> None:
    """Else an hour would have no whole intervals."""
    said = call("levels", "--interval", interval, "street.wav")

    assert said.code == 2
    assert f"--interval: {interval}: expected a" in said.err


def test_the_start_of_a_recording_dates_its_intervals_alone(call: Caller) -> None:
    """A level of all of it has no date; and one start is of one recording."""
    alone = call("levels", "--start", "now", "street.wav")
    several = call("levels", "--interval", "60", "--start", "now", REPOSITORY / "README.md", REPOSITORY / "Makefile")

    assert (alone.code, several.code) == (2, 2)
    assert "--start: dates intervals, expected --interval as well" in alone.err
    assert "--start: says when one recording began, and there are 2" in several.err


def test_what_is_too_short_for_a_level_is_said(call: Caller, tmp_path: Path) -> None:
    """Less than an eighth of a second is no level of anything; the others are measured."""
    soundfile.write(tmp_path / "click.wav", np.zeros(999), 8_000)
    soundfile.write(tmp_path / "silence.wav", np.zeros(1_000), 8_000)

    said = call("levels", tmp_path)

    assert said.code == 3
    assert "click.wav: too short for a level, expected an eighth of a second or more" in said.err
    assert [row["laeq_db"] for row in csv.DictReader(io.StringIO(said.out))] == ["-200.0"]


# Check


def test_check_prints_what_can_be_loaded_again(call: Caller, tmp_path: Path) -> None:
    """The printed configuration is TOML, means the same as the file, and can be used as one."""
    file = tmp_path / "agent.toml"
    file.write_text(
        r"""
[node]
id = "node-07"
[audio]
device = "USB \"Mikrofon\" \\ Straße 🎤 \u007F"
channel = 2
[inference]
window_hop_s = 0.2
[events.default]
on = 0.6
[events.classes.siren]
min_duration_s = 1e-5
[events.classes.dog_bark]
on = 0.9
[mqtt]
username = "node"
password_file = "/dev/null"
[mqtt.tls]
enabled = true
""",
        encoding="utf-8",
    )
    (tmp_path / "password").write_text("secret")
    file.write_text(file.read_text(encoding="utf-8").replace("/dev/null", str(tmp_path / "password")), encoding="utf-8")

    said = call("check", file)

    assert said.code == 0, said.err
    (tmp_path / "again.toml").write_text(said.out, encoding="utf-8")
    assert load_config(tmp_path / "again.toml", {}) == load_config(file, {})
    assert f"# {file}: all is well" in said.err


def test_check_of_the_reference_shows_the_defaults(call: Caller) -> None:
    """The reference configuration as it comes is valid, and means all defaults; the model is named."""
    reference = Path(__file__).parent.parent / "config" / "agent.toml"

    said = call("check", reference)

    assert said.code == 0
    assert Config.model_validate(tomllib.loads(said.out)) == Config()
    assert "# model l3-edge-us8k" in said.out


def test_check_says_what_would_run_the_network(call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An accelerator that is not there is no error: the CPU would do the work, and why is printed."""
    (tmp_path / "agent.toml").write_text("", encoding="utf-8")
    monkeypatch.setenv("URBANSOUND_INFERENCE__ACCELERATOR", "/nowhere/libx.so")

    said = call("check", tmp_path / "agent.toml")

    assert said.code == 0
    assert "# accelerator cpu: /nowhere/libx.so: there is no such file\n" in said.out
    assert "accelerator.refused asked=/nowhere/libx.so" in said.err


def test_check_shows_no_secret(call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password is masked, whether it stands in the file or in the environment."""
    file = tmp_path / "agent.toml"
    file.write_text('[mqtt]\nusername = "node"\npassword = "from the file"\n')

    from_file = call("check", file)
    monkeypatch.setenv("URBANSOUND_MQTT__PASSWORD", "from the environment")
    from_environment = call("check", file)

    for said in (from_file, from_environment):
        assert said.code == 0
        assert 'password = "**********"' in said.out
        assert "from the" not in said.out + said.err


def test_check_shows_what_the_environment_changes(
    call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is printed is what an agent started here would use."""
    file = write_config(tmp_path, 1234)
    monkeypatch.setenv("URBANSOUND_MQTT__PORT", "4321")

    assert tomllib.loads(call("check", file).out)["mqtt"]["port"] == 4321


# Coverage


def test_coverage_is_told_for_each_hour(call: Caller, tmp_path: Path) -> None:
    """The hours that the sensor keeps beside its spool, as a table and for programs."""
    config = write_config(tmp_path, 1)
    hour = round(datetime.now(UTC).timestamp()) // 3600
    hours = Hours(tmp_path / "spool" / "coverage.sqlite")
    hours.keep({hour - 1: Tally(heard=3000 * 10**9, lost=600 * 10**9), hour: Tally(heard=1)}, None)

    text, rows = call("coverage", "--config", config), call("coverage", "--config", config, "--hours", "2", "--json")
    hours.close()

    assert (text.code, rows.code) == (0, 0)
    assert " 83.33 %     3000        0         0      600        0\n" in text.out
    assert [row["coverage_percent"] for row in rows_of(rows.out)][:1] == [83.33]


def test_no_coverage_is_said(call: Caller, tmp_path: Path) -> None:
    """Where no sensor has run, that is an error and not an empty table."""
    said = call("coverage", "--config", write_config(tmp_path, 1))

    assert (said.code, said.out) == (74, "")
    assert "coverage.sqlite: cannot be read (No such file or directory)" in said.err


def test_replay_accounts_for_recordings(call: Caller, corner: Sound, noise_file: Path, tmp_path: Path) -> None:
    """`--coverage` writes a line for each recording; the events are the same with and without."""
    file = tmp_path / "coverage.jsonl"
    said = call("replay", "--coverage", file, corner.file, noise_file)

    street, noise = rows_of(file.read_text(encoding="utf-8"))
    assert said.out == call("replay", corner.file, noise_file).out
    assert (street["file"], noise["file"]) == (str(corner.file), str(noise_file))
    assert street["duration_s"] == pytest.approx(corner.duration_s, abs=0.001)
    assert street["silent_s"] > 2.0
    assert (noise["heard_s"], noise["coverage_percent"]) == (2.0, 100.0)
    for row in (street, noise):
        parts = (row["heard_s"], row["silent_s"], row["clipped_s"], row["lost_s"])
        assert sum(parts) == pytest.approx(row["duration_s"], abs=0.002)


def test_coverage_that_cannot_be_written_is_said(urbansound: CommandFactory, noise_file: Path, tmp_path: Path) -> None:
    """A folder that is not there is named, before anything is judged; a full disk as well, when it is full."""
    replayed = urbansound("replay", "--coverage", tmp_path / "nowhere" / "file", noise_file)
    filled = urbansound("replay", "--coverage", "/dev/full", noise_file)

    assert replayed.wait() == filled.wait() == 74
    assert "nowhere/file: cannot be written (No such file or directory)" in replayed.stderr
    assert filled.stderr == "urbansound: /dev/full: cannot be written (No space left on device)\n"


@pytest.mark.parametrize("name", ["day.WAV", "day"])
def test_coverage_is_not_written_over_a_recording(call: Caller, noise_file: Path, tmp_path: Path, name: str) -> None:
    """Where FILE was forgotten, the first recording would be it: by its suffix, or because it is heard as well."""
    recording = noise_file.rename(tmp_path / name)
    content = recording.read_bytes()
    again = tmp_path / "again"
    again.symlink_to(recording)

    said = call("replay", "--coverage", recording, again)

    assert (said.code, said.out) == (2, "")
    assert f"--coverage {recording}: is a recording or named as one, expected another FILE" in said.err
    assert recording.read_bytes() == content


@pytest.mark.parametrize("address", ["zip://noise.wav::{}", "zip://*.wav::file://{}", "simplecache::file://{}"])
def test_coverage_is_not_written_over_what_an_address_is_of(
    call: Caller, noise_file: Path, tmp_path: Path, address: str
) -> None:
    """An archive of this machine is as dear as a recording."""
    archive = tmp_path / "day.zip"
    with zipfile.ZipFile(archive, "w") as day:
        day.write(noise_file, "noise.wav")
    content = archive.read_bytes()

    said = call("replay", "--coverage", archive, address.format(archive))

    assert (said.code, said.out) == (2, "")
    assert archive.read_bytes() == content


# Watch


def test_watch_shows_events_as_they_come(
    urbansound: CommandFactory, published: Path, broker: Broker, corner: Sound
) -> None:
    """Each message is a line: which node, what, from when to when, how sure, how loud; after `--count` it ends."""
    watched = urbansound("watch", "--config", published, "--count", "4")
    watched.wait_for_log(f"watching {HOST}:{broker.port}")

    replayed = urbansound("replay", "--publish", "--start", START, "--config", published, corner.file)

    assert replayed.wait() == watched.wait() == 0
    rows = rows_of(replayed.lines)
    assert [line.split()[:3] for line in watched.lines] == [
        ["node/street", state, row["label"]] for row in rows for state in ("start", "end")
    ]
    assert f" from {rows[0]['start'][11:23]} to 12:00:0" in watched.lines[1]
    assert watched.lines[1].endswith(f" UTC, {rows[0]['likelihood_peak']:.2f}, {rows[0]['laeq_db']} dBFS(A)\n")


def test_watch_shows_gaps_and_health(
    urbansound: CommandFactory, published: Path, broker: Broker, subscribe: SubscriberFactory
) -> None:
    """What was not heard, and whether a node hears, is a line for a person as well."""
    watched = urbansound("watch", "--config", published, "--count", "2")
    watched.wait_for_log("watching")
    client = subscribe(broker.options())._client
    documents = (REPOSITORY / "docs" / "mqtt.md").read_text(encoding="utf-8")
    examples = {json.loads(block)["schema"]: block for block in re.findall(r"(?ms)^```json\n(.*?)^```$", documents)}

    client.publish("urbansound/node-07/street/gap", examples["urbansound.gap/1"], qos=1)
    client.publish("urbansound/node-07/health", examples["urbansound.health/1"], qos=1)

    assert watched.wait() == 0
    assert watched.lines == [
        "node-07/street  gap     device             from 12:00:10.000 to 12:00:17.500 UTC, 7.5 s lost\n",
        "node-07/street  health  silent (zero) since 13:09:55 UTC, coverage of this hour 98.3 %, of the last 99.8 %\n",
    ]


def test_watch_can_show_the_messages_themselves(
    urbansound: CommandFactory, broker: Broker, published: Path, corner: Sound
) -> None:
    """`--json` passes on what is published, for programs; host and port can be given by hand."""
    arguments = ("--host", HOST, "--port", str(broker.port), "--json", "--count", "2")
    watched = urbansound("watch", *arguments)
    watched.wait_for_log("watching")

    urbansound("replay", "--publish", "--start", START, "--config", published, corner.file).wait()

    assert watched.wait() == 0
    assert [(row["schema"], row["event_type"]) for row in rows_of(watched.lines)] == [
        ("urbansound.event/1", "start"),
        ("urbansound.event/1", "end"),
    ]


def test_watch_shows_what_it_cannot_read(
    urbansound: CommandFactory, published: Path, broker: Broker, subscribe: SubscriberFactory
) -> None:
    """A message of another kind on the topic is said to be one, and the next is shown."""
    watched = urbansound("watch", "--config", published, "--count", "1")
    watched.wait_for_log("watching")

    subscribe(broker.options())._client.publish(EVENT, b"\xff{", qos=1)

    assert watched.wait() == 0
    assert watched.lines == [f"{EVENT}: not a message that this version can read\n"]


def test_watch_has_a_line_for_each_message(
    urbansound: CommandFactory, published: Path, broker: Broker, subscribe: SubscriberFactory
) -> None:
    """JSON that another publisher has laid out over several lines comes as one."""
    watched = urbansound("watch", "--config", published, "--json", "--count", "1")
    watched.wait_for_log("watching")

    subscribe(broker.options())._client.publish(EVENT, b'{\r\n "label": "siren"\n}', qos=1)

    assert watched.wait() == 0
    assert rows_of(watched.lines) == [{"label": "siren"}]


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_watch_escapes_what_the_terminal_cannot_show(
    urbansound: CommandFactory,
    published: Path,
    broker: Broker,
    subscribe: SubscriberFactory,
    arguments: tuple[str, ...],
) -> None:
    """A sign that the terminal's encoding lacks ends nothing: it comes as JSON writes it, the others as they are."""
    latin_1 = {"PYTHONIOENCODING": "latin-1"}
    watched = urbansound("watch", "--config", published, "--count", "1", *arguments, more=latin_1)
    watched.wait_for_log("watching")
    documents = (REPOSITORY / "docs" / "mqtt.md").read_text(encoding="utf-8")
    example = next(block for block in re.findall(r"(?ms)^```json\n(.*?)^```$", documents) if "event/1" in block)
    event = json.loads(example) | {"label": "é\N{CJK UNIFIED IDEOGRAPH-8B66}\N{BELL}"}

    subscribe(broker.options())._client.publish(EVENT, json.dumps(event, ensure_ascii=False).encode(), qos=1)

    assert watched.wait() == 0, watched.stderr
    (line,) = watched.lines
    assert os.fsdecode(b"\xe9") + r"\u8b66\ud83d\udd14" in line


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_watching_can_be_left(urbansound: CommandFactory, published: Path, number: signal.Signals, code: int) -> None:
    """Ctrl-C ends it without a traceback; SIGTERM as any program."""
    watched = urbansound("watch", "--config", published)
    watched.wait_for_log("watching")

    watched.signal(number)

    assert watched.wait() == code
    assert "Traceback" not in watched.stderr


def test_watching_stops_when_nobody_reads(
    urbansound: CommandFactory, published: Path, broker: Broker, subscribe: SubscriberFactory
) -> None:
    """`watch | head`: when the reader goes, it ends with the next message."""
    writer = closed_pipe()
    watched = urbansound("watch", "--config", published, stdout=writer)
    os.close(writer)
    watched.wait_for_log("watching")

    subscribe(broker.options())._client.publish(EVENT, b"{}", qos=1)

    assert watched.wait() == 74
    assert "standard output: cannot be written (Broken pipe)" in watched.stderr


# Devices, logs


def test_devices_shows_what_to_paste(urbansound: CommandFactory, sound_server: SoundServer) -> None:
    """Each microphone is listed with channels and rate, and with the line that chooses it."""
    listed = urbansound("devices", environment=sound_server.environment)

    assert listed.wait() == 0
    text = "".join(listed.lines)
    assert 'in the configuration: device = "testmic"' in text
    assert "(default)" in text
    assert "channels" in text
    assert "Hz, ALSA" in text


def test_without_a_microphone_devices_says_so(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without one, that is said, with 69."""
    monkeypatch.setattr(portaudio, "list_devices", lambda: ())

    said = call("devices")

    assert (said.code, said.out) == (69, "")
    assert said.err == "urbansound: no microphone is known to PortAudio; is one plugged in?\n"


def test_under_systemd_the_journal_gets_priorities(urbansound: CommandFactory, published: Path, corner: Sound) -> None:
    """With `$JOURNAL_STREAM` the log's lines have no time, which the journal adds, but a priority that it reads."""
    arguments = ("replay", "--publish", "--start", START, "--config", published, corner.file)

    journal = urbansound(*arguments, more={"JOURNAL_STREAM": "1:2"})
    assert journal.wait() == 0
    terminal = urbansound(*arguments)
    assert terminal.wait() == 0

    assert journal.log[0].startswith("<6>mqtt.connected broker=")
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO mqtt.connected ", terminal.log[0])


def test_no_line_of_the_log_is_lost_while_portaudio_looks_for_devices() -> None:
    """What another thread logs in that moment is said all the same; sounddevice hides standard error meanwhile."""
    program = (
        "import logging, os\n"
        "from agent import cli\n"
        "def look_for_devices(options):\n"
        "    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # as sounddevice does\n"
        "    logging.warning('heard meanwhile')\n"
        "    return 0\n"
        "cli.COMMANDS['devices'] = look_for_devices\n"
        "cli.main(['devices'])\n"
    )

    said = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
    )

    assert said.stderr.endswith("WARNING heard meanwhile\n")


def test_the_log_level_is_that_of_the_configuration(urbansound: CommandFactory, published: Path, corner: Sound) -> None:
    """Who wants only warnings is not told of each connection."""
    arguments = ("replay", "--publish", "--start", START, "--config", published, corner.file)

    replayed = urbansound(*arguments, more={"URBANSOUND_LOG__LEVEL": "warning"})

    assert replayed.wait() == 0
    assert replayed.stderr == ""
