"""`urbansound`: its commands and their exit codes.

Results go to standard output, everything else to standard error. Exit codes: 0 done · 1 unexpected · 2 usage · 3 some
recordings failed · 69 no microphone or broker · 74 reading or writing failed · 78 configuration or model · 129, 130,
143 ended by a signal.
"""

import argparse
import io
import itertools
import json
import logging
import os
import select
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from agent.arguments import NOW, STANDARD_INPUT, argument_parser
from agent.clock import recording_timeline, utc_now
from agent.errors import AgentError, OutputError, RecordingError, UsageError
from agent.logs import log_to_stderr
from agent.printout import (
    CLIP_COLUMNS,
    EVENT_COLUMNS,
    INTERVAL_COLUMNS,
    LEVEL_COLUMNS,
    add_line,
    clip_line,
    event_line,
    let_go,
    line_file,
    message_line,
    one_line,
    open_closed_streams,
    put,
    row_writer,
    say,
    take_any_text,
)
from agent.progress import Progress

if TYPE_CHECKING:
    from agent.app import Judge
    from agent.config import Config
    from agent.stop import Stop
    from agent.wavfile import Recording, Source
    from agent.workers import Workers

SOME_FAILED = 3
STDIN = 0
LOOK_S = 0.2  # how soon a signal is noticed while nothing comes by standard input


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    # The matrices are small: more threads would only spin, on cores that others need. Before numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    open_closed_streams()
    options = argument_parser().parse_args(arguments)
    log_to_stderr()
    take_any_text()
    try:
        code = COMMANDS[options.command](options)
    except AgentError as error:
        say(f"urbansound: {error}")
        if isinstance(error, OutputError):
            let_go(sys.stdout)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return code


def _environment(options: argparse.Namespace) -> Mapping[str, str]:
    """The environment, and over it what the command line says of the configuration."""
    form = getattr(options, "inference", None)
    return os.environ | ({"URBANSOUND_INFERENCE__FORM": form} if form else {})


def _configuration(file: Path | None, environment: Mapping[str, str] = os.environ) -> "Config":
    from agent.config import load_config

    config = load_config(file, environment)
    logging.getLogger().setLevel(config.log.level.upper())
    return config


# --- run ---------------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    from agent.config import load_config
    from agent.sensor import run_sensor

    environment = _environment(options)
    config = _configuration(options.config, environment)
    return run_sensor(config, environment, lambda: load_config(options.config, environment))


# --- replay and classify -----------------------------------------------------------------------------------------


def _recordings(options: argparse.Namespace) -> "tuple[list[Source], list[RecordingError]]":
    from agent.archive import RemoteFile, walk_remote
    from agent.recordings import SUFFIXES, walk

    has_stdin = STANDARD_INPUT in options.paths
    if has_stdin and options.rate is None:
        raise UsageError("- reads raw PCM: --rate is missing, expected samples per second")
    for name, value in (("rate", options.rate), ("channels", options.channels), ("format", options.pcm_format)):
        if value is not None and not has_stdin:
            raise UsageError(f"--{name} {value}: is for raw PCM, expected - among what is heard")
    files, problems = walk(path for path in options.paths if isinstance(path, Path) and path != STANDARD_INPUT)
    there, more_problems = walk_remote((path for path in options.paths if isinstance(path, RemoteFile)), SUFFIXES)
    return [*([STANDARD_INPUT] if has_stdin else []), *files, *there], problems + more_problems


class _StandardInput(io.RawIOBase):
    """Standard input that also ends when it is time to stop, though nothing comes and nobody closes it."""

    def __init__(self, stop: "Stop") -> None:
        self._stop = stop

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  whatever bytes can be put into
        while not self._stop.is_set():
            if select.select([STDIN], [], [], LOOK_S)[0]:
                return os.readv(STDIN, [buffer])
        return 0


def _opened(file: "Source", options: argparse.Namespace, stop: "Stop") -> "Recording":
    from agent.wavfile import open_recording, raw_pcm

    if file != STANDARD_INPUT:
        return open_recording(file, options.channel)
    return raw_pcm(
        io.BufferedReader(_StandardInput(stop)),
        sample_rate_hz=options.rate,
        channels=1 if options.channels is None else options.channels,
        format=options.pcm_format or "s16le",
        channel=options.channel,
    )


def _each_recording(
    files: "Sequence[Source]",
    problems: Sequence[RecordingError],
    options: argparse.Namespace,
    stop: "Stop",
    treat: "Callable[[Source, Recording], None]",
) -> int:
    """Treat one recording after the other, until it is time to stop; one that fails is said, and the others go on."""
    failed = len(problems)
    for missing in problems:
        say(f"urbansound: {missing}")
    for file in files:
        if stop.is_set():
            break
        try:
            with _opened(file, options, stop) as recording:
                treat(file, recording)
                if recording.n_invalid_samples:
                    say(
                        f"urbansound: {recording.name}: {recording.n_invalid_samples} samples were not numbers, "
                        "taken as silence"
                    )
                problem = recording.problem
        except RecordingError as error:
            problem = str(error)
        if problem:
            failed += 1
            say(f"urbansound: {problem}")
    return SOME_FAILED if failed else 0


def _workers(
    stack: ExitStack,
    options: argparse.Namespace,
    files: "Sequence[Source]",
    judge: "Judge",
    stop: "Stop",
    *,
    measured: bool,
) -> "Workers | None":
    """Others to judge the files, and to say how loud they are, if they are wanted or worthwhile."""
    from agent.workers import Crew, Processes, Workers, worthwhile

    files = [file for file in files if file != STANDARD_INPUT]
    crew: Crew
    if options.dask is not None:
        from agent.cluster import Cluster

        crew = Cluster(options.dask, judge)
    else:
        jobs: int = options.jobs or (worthwhile(files, options.channel) if judge.accelerator.name == "cpu" else 1)
        if jobs == 1:
            return None
        crew = Processes(judge.config, jobs)
    return stack.enter_context(Workers(judge, crew, files, options.channel, measured=measured, stop=stop))


def _check_replay(options: argparse.Namespace, files: "Sequence[Source]") -> None:
    from agent.recordings import SUFFIXES

    for name, value in (("jobs", options.jobs), ("dask", options.dask)):
        if options.speed is not None and value is not None:
            raise UsageError(f"--{name} {value}: is for as fast as it goes, expected no --speed and no --realtime")
        if options.coverage is not None and value is not None:
            raise UsageError(f"--{name} {value}: expected no --coverage, for which each sample is looked at here")
    _check_start(options, files)
    if options.coverage is not None:
        here = itertools.chain.from_iterable([file] if isinstance(file, Path) else file.local_files for file in files)
        heard = {os.path.realpath(file) for file in here}
        if options.coverage.suffix.lower() in SUFFIXES or os.path.realpath(options.coverage) in heard:
            problem = "is a recording or named as one, expected another FILE to write"
            raise UsageError(f"--coverage {options.coverage}: {problem}")


def _check_start(options: argparse.Namespace, files: "Sequence[Source]") -> None:
    if options.start is not None and len(files) > 1:
        raise UsageError(f"--start: says when one recording began, and there are {len(files)}")


def _start_of(file: "Source", options: argparse.Namespace) -> datetime | None:
    """When a recording began: as was said, or as its name says."""
    from agent.recordings import start_time_from_name

    return utc_now() if options.start == NOW else options.start or start_time_from_name(PurePath(file.name))


def _replay(options: argparse.Namespace) -> int:
    from agent import messages
    from agent.app import Judge
    from agent.outbox import Outbox
    from agent.replay import replay
    from agent.stop import StopSignals
    from agent.timesheet import RecordingTimes
    from agent.values import SoundEvent

    files, problems = _recordings(options)
    _check_replay(options, files)
    config = _configuration(options.config, _environment(options))
    judge = Judge(config)
    with ExitStack() as stack:
        write = row_writer(stack, options.output, EVENT_COLUMNS, event_line)
        signals = stack.enter_context(StopSignals())
        outbox = None
        if options.publish:
            outbox = Outbox(config, judge, environment=os.environ, stop=signals.stop, replayed=True)
            stack.enter_context(outbox)
        alone = options.speed is not None or options.coverage is not None
        workers = None if alone else _workers(stack, options, files, judge, signals.stop, measured=True)
        coverage = None if options.coverage is None else stack.enter_context(line_file(options.coverage))
        unwritten: list[OutputError] = []

        def treat(file: "Source", recording: "Recording") -> None:
            start = _start_of(file, options)
            publish: Callable[[SoundEvent], None] = lambda _event: None  # noqa: E731
            if outbox is not None:
                if start is None:
                    raise RecordingError(f"{file}: nobody knows when it began; to publish it, say it with --start")
                publish = outbox.teller(recording.sample_rate_hz, recording_timeline(start, recording.sample_rate_hz))

            def emit(event: SoundEvent) -> None:
                publish(event)
                if event.state != "end" or unwritten:
                    return
                row = messages.finished_event_row(
                    event,
                    sample_rate_hz=recording.sample_rate_hz,
                    file=str(file),
                    recording_start=start,
                    full_scale_db=config.audio.full_scale_db,
                )
                progress.clear()
                try:
                    write(row)
                except OutputError as error:  # raised below: what is open still ends, for the subscribers
                    unwritten.append(error)
                    signals.stop.set()

            times = None if coverage is None else RecordingTimes(recording.sample_rate_hz, start)
            with Progress(Path(recording.name).name, recording.n_samples, recording.sample_rate_hz) as progress:
                replay(
                    recording,
                    judge,
                    emit,
                    stop=signals.stop,
                    speed=options.speed,
                    analysed=progress.update,
                    workers=workers,
                    times=times,
                )
            if coverage is not None and times is not None:
                add_line(coverage, times.row(str(file), missing=recording.n_missing))

        code = _each_recording(files, problems, options, signals.stop, treat)
        if unwritten:
            raise unwritten[0]
        return signals.exit_code or code


def _classify(options: argparse.Namespace) -> int:
    from agent.app import Judge
    from agent.replay import classify
    from agent.stop import StopSignals

    files, problems = _recordings(options)
    config = _configuration(options.config, _environment(options))
    judge = Judge(config)
    with ExitStack() as stack:
        write = row_writer(stack, options.output, CLIP_COLUMNS, clip_line)
        signals = stack.enter_context(StopSignals())
        workers = _workers(stack, options, files, judge, signals.stop, measured=False)

        def treat(file: "Source", recording: "Recording") -> None:
            prediction = classify(recording, judge, stop=signals.stop, workers=workers)
            if prediction is None:
                return
            likelihoods = {
                label: round(float(value), 4)
                for label, value in zip(prediction.labels, prediction.likelihoods, strict=True)
            }
            row: dict[str, Any] = {
                "file": str(file),
                "label": prediction.label,
                "likelihood": likelihoods[prediction.label],
            }
            if options.output == "jsonl":
                row |= {"likelihoods": likelihoods, "n_windows": prediction.n_windows}
            write(row)

        code = _each_recording(files, problems, options, signals.stop, treat)
        return signals.exit_code or code


def _levels(options: argparse.Namespace) -> int:
    from agent import messages
    from agent.level import statistics
    from agent.replay import interval_levels, levels
    from agent.stop import StopSignals

    files, problems = _recordings(options)
    _check_start(options, files)
    if options.start is not None and options.interval is None:
        raise UsageError("--start: dates intervals, expected --interval as well")
    config = _configuration(options.config)
    full_scale_db = config.audio.full_scale_db
    with ExitStack() as stack:
        write = row_writer(stack, options.output, INTERVAL_COLUMNS if options.interval else LEVEL_COLUMNS, str)
        signals = stack.enter_context(StopSignals())

        def treat(file: "Source", recording: "Recording") -> None:
            n_rows = 0
            for row in rows(file, recording):
                write(row)
                n_rows += 1
            if n_rows == 0 and not signals.stop.is_set():
                raise RecordingError(f"{file}: too short for a level, expected an eighth of a second or more")

        def rows(file: "Source", recording: "Recording") -> Iterator[Mapping[str, Any]]:
            if options.interval is not None:
                start = _start_of(file, options)
                for level in interval_levels(recording, start, interval_s=options.interval, stop=signals.stop):
                    yield messages.interval_row(
                        level, file=str(file), recording_start=start, full_scale_db=full_scale_db
                    )
                return
            readings = levels(recording, stop=signals.stop)
            if readings and not signals.stop.is_set():
                duration_s = (readings[-1].first_sample + readings[-1].n_samples) / recording.sample_rate_hz
                yield messages.levels_row(
                    statistics(readings), duration_s=duration_s, file=str(file), full_scale_db=full_scale_db
                )

        code = _each_recording(files, problems, options, signals.stop, treat)
        return signals.exit_code or code


# --- calibrate, devices, check, watch ----------------------------------------------------------------------------


def _calibrate(options: argparse.Namespace) -> int:
    from agent.calibration import READ_S, calibrate, listen
    from agent.config import toml_lines
    from agent.portaudio import StreamSettings, open_portaudio

    audio = _configuration(options.config).audio
    settings = StreamSettings(audio.device, audio.sample_rate_hz, audio.channel, audio.channels, READ_S)
    with closing(open_portaudio(settings, False)) as stream:
        say(f"hearing {stream.description} for {options.seconds} s; the calibrator must be on it")
        samples = listen(stream, audio.channel, options.seconds)
    found = calibrate(samples, stream.sample_rate_hz, calibrator_db=options.level)
    say(f"the tone is {found.tone_dbfs:.2f} dB of full scale, and moved by {found.moved_db:.2f} dB")
    put("\n".join(toml_lines({"audio": {"full_scale_db": round(found.full_scale_db, 1)}})).rstrip() + "\n")
    return 0


def _devices(_options: argparse.Namespace) -> int:
    from agent.config import toml_lines
    from agent.portaudio import list_devices, shortest_name

    devices = list_devices()
    if not devices:
        say("urbansound: no microphone is known to PortAudio; is one plugged in?")
        return 69
    for device in devices:
        default = "  (default)" if device.is_default else ""
        line = next(toml_lines({"device": shortest_name(device, devices)}))
        put(
            f"{device.index:3}  {device.name}{default}\n"
            f"     {device.n_channels} channels, {device.default_sample_rate_hz} Hz, {device.host_api};"
            f" in the configuration: {line}\n"
        )
    return 0


def _check(options: argparse.Namespace) -> int:
    from agent.app import Judge
    from agent.config import toml_lines
    from agent.outbox import broker_options

    config = _configuration(options.file)
    judge = Judge(config, live=True)
    broker_options(config.mqtt, os.environ)
    card, accelerator = judge.model.card, judge.accelerator
    lines = [
        *toml_lines(config.model_dump(mode="json", exclude_none=True)),
        f"# model {card.name} {card.version}, sha256 {judge.model.sha256}",
        f"# accelerator {accelerator.name}: {accelerator.reason}",
    ]
    put("\n".join(lines) + "\n")
    say(f"# {options.file}: all is well")
    return 0


def _bench(options: argparse.Namespace) -> int:
    from agent.bench import bench
    from agent.figures import as_text

    report = bench(_configuration(options.config, _environment(options)), options.file, options.seconds)
    put(json.dumps(report.as_json(), indent=1) + "\n" if options.json else as_text(report))
    return 0


def _watch(options: argparse.Namespace) -> int:
    from agent import broker, wire
    from agent.outbox import broker_options

    config = _configuration(options.config)
    changes = {name: getattr(options, name) for name in ("host", "port") if getattr(options, name) is not None}
    mqtt = config.mqtt.model_copy(update=changes)
    received = broker.watch(
        broker_options(mqtt, os.environ),
        *wire.watched_topics(mqtt.prefix),
        on_subscribed=lambda: say(f"watching {mqtt.host}:{mqtt.effective_port}"),
    )
    for message in itertools.islice(received, options.count):
        if options.json:
            put(one_line(message.payload.decode("utf-8", "replace")) + "\n")
        else:
            put(message_line(message.topic, wire.read_message(message.payload)) + "\n")
    return 0


def _coverage(options: argparse.Namespace) -> int:
    from agent.clock import to_ns
    from agent.hours import read_hours
    from agent.outbox import coverage_file
    from agent.timesheet import as_text, hour_rows

    hours = read_hours(coverage_file(_configuration(options.config)))
    rows = hour_rows(hours, now_ns=to_ns(utc_now()), newest=options.hours)
    lines = (json.dumps(row) for row in rows) if options.json else as_text(rows)
    put("".join(f"{line}\n" for line in lines))
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "replay": _replay,
    "classify": _classify,
    "levels": _levels,
    "calibrate": _calibrate,
    "devices": _devices,
    "check": _check,
    "bench": _bench,
    "coverage": _coverage,
    "watch": _watch,
}

if __name__ == "__main__":
    sys.exit(main())
