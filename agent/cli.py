"""`urbansound`: arguments, exit codes, and what a person sees.

Results go to standard output, everything else to standard error. Exit codes: 0 done · 1 unexpected · 2 usage · 3 some
recordings failed · 69 no microphone or broker · 74 reading or writing failed · 78 configuration or model · 129, 130,
143 ended by a signal.
"""

import argparse
import csv
import io
import itertools
import json
import logging
import os
import select
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TextIO

from agent import __version__
from agent.clock import recording_timeline, utc_now
from agent.errors import AgentError, OutputError, RecordingError, UsageError
from agent.logs import log_to_stderr
from agent.progress import Progress

if TYPE_CHECKING:
    from agent.app import Judge
    from agent.config import Config
    from agent.messages import EventMessage, GapMessage, HealthMessage
    from agent.stop import Stop
    from agent.wavfile import Recording, Source
    from agent.workers import Workers

SOME_FAILED = 3
STANDARD_INPUT = Path("-")
STDIN = 0
NOW = "now"
LOOK_S = 0.2  # how soon a signal is noticed while nothing comes by standard input
EVENT_COLUMNS = (
    "file",
    "label",
    "onset_s",
    "offset_s",
    "duration_s",
    "likelihood_peak",
    "likelihood_mean",
    "end_reason",
    "start",
    "end",
)
CLIP_COLUMNS = ("file", "label", "likelihood")

Writer = Callable[[Mapping[str, Any]], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    # The matrices are small: more threads would only spin, on cores that others need. Before numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    parser = _parser()
    options = parser.parse_args(arguments)
    log_to_stderr()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files are bytes, and go out as they came in
    try:
        code: int = options.run(options)
    except AgentError as error:
        print(f"urbansound: {error}", file=sys.stderr)
        if isinstance(error, OutputError):  # Python would complain once more when it flushes at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="urbansound",
        description="Hears a street, publishes labelled events over MQTT, and keeps the sound to itself.",
        epilog="Each command has --help with examples.",
    )
    parser.add_argument("--version", action="version", version=f"urbansound {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    configured = argparse.ArgumentParser(add_help=False)
    configured.add_argument("--config", type=Path, metavar="FILE", help="the TOML file (default: all defaults)")
    judging = argparse.ArgumentParser(add_help=False)
    judging.add_argument(
        "--inference",
        choices=("auto", "streaming", "windowed"),
        metavar="FORM",
        help="auto, streaming or windowed, instead of the configured form of the network",
    )
    source = argparse.ArgumentParser(add_help=False)
    source.add_argument(
        "paths", type=_source, nargs="+", metavar="PATH", help="recordings, folders, addresses, or - for raw PCM"
    )
    source.add_argument("--channel", type=_channel, default="mix", help="one channel, from 1, or mix (default)")
    source.add_argument(
        "--jobs",
        type=_number(1, 1000),
        metavar="N",
        help="processes that judge at once (default: all cores, if there is sound enough to be worth it)",
    )
    source.add_argument("--dask", metavar="SCHEDULER", help="have a Dask cluster judge, such as tcp://10.0.0.1:8786")
    raw = source.add_argument_group("raw PCM from standard input (PATH is -)")
    raw.add_argument("--rate", type=int, metavar="HZ", help="samples per second")
    raw.add_argument("--channels", type=int, default=1, metavar="N", help="interleaved channels (default: 1)")
    raw.set_defaults(pcm_format="s16le")

    def add(name: str, run: Callable[[argparse.Namespace], int], help: str, examples: str, *parents: Any) -> Any:  # noqa: ANN401  argparse's own private type
        command = commands.add_parser(
            name,
            parents=parents,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        return command

    add(
        "run",
        _run,
        "listen to the microphone and publish what is heard, until told to stop",
        "  urbansound run --config /etc/urbansound/agent.toml\n  URBANSOUND_MQTT__HOST=broker.example urbansound run",
        configured,
        judging,
    )
    command = add(
        "replay",
        _replay,
        "find the events in recordings, by the same code that listens live",
        "  urbansound replay street.flac\n"
        "  urbansound replay --format csv recordings/ > events.csv\n"
        "  urbansound replay --jobs 8 archive/ > events.jsonl\n"
        "  urbansound replay --dask tcp://10.0.0.1:8786 --format parquet s3://archive/2026 > events.parquet\n"
        "  urbansound replay --publish --start now --speed 8 street.wav\n"
        "  arecord -t raw -f S16_LE -r 48000 -c 1 | urbansound replay - --rate 48000 --format s16le",
        configured,
        judging,
        source,
    )
    _add_format(command, ("jsonl", "csv", "text", "parquet"), default="jsonl")
    command.add_argument("--start", type=_start, metavar="TIME", help="when the recording began: RFC 3339, or now")
    pace = command.add_mutually_exclusive_group()
    pace.add_argument("--realtime", dest="speed", action="store_const", const=1.0, help="as slowly as it happened")
    pace.add_argument("--speed", type=_speed, metavar="X", help="X times real time (default: as fast as it goes)")
    command.add_argument("--publish", action="store_true", help="publish the events over MQTT as well")
    command.add_argument(
        "--coverage", type=Path, metavar="FILE", help="write there how much of each recording was heard, as JSON lines"
    )
    classify = add(
        "classify",
        _classify,
        "name the one class that fits each recording best, as in the paper",
        "  urbansound classify clips/ > labels.csv\n  urbansound classify --format jsonl clip.wav",
        configured,
        judging,
        source,
    )
    _add_format(classify, ("csv", "jsonl"), default="csv")
    add("devices", _devices, "list the microphones, and what to write into the configuration", "  urbansound devices")
    command = add(
        "check",
        _check,
        "check a configuration file and print what is in effect, secrets masked",
        "  urbansound check /etc/urbansound/agent.toml",
    )
    command.add_argument("file", type=Path, metavar="FILE")
    command = add(
        "bench",
        _bench,
        "measure how fast the agent is on this machine, stage by stage",
        "  urbansound bench\n  urbansound bench --seconds 600 street.flac\n  urbansound bench --json > bench.json",
        configured,
        judging,
    )
    command.add_argument(
        "file", type=Path, nargs="?", metavar="FILE", help="a recording (default: a sound that is made on the spot)"
    )
    command.add_argument(
        "--seconds",
        type=_number(3, 86_400),
        default=20,
        metavar="S",
        help="how long to hear at the pace of a microphone (default: 20)",
    )
    command.add_argument("--json", action="store_true", help="print JSON, for programs")
    command = add(
        "coverage",
        _coverage,
        "print how much of each hour the sensor of this machine has heard, also while it runs",
        "  urbansound coverage --config /etc/urbansound/agent.toml\n  urbansound coverage --hours 2160 --json",
        configured,
    )
    command.add_argument(
        "--hours", type=_number(1, 2160), default=24, metavar="N", help="the last N hours (default: 24; at most 2160)"
    )
    command.add_argument("--json", action="store_true", help="print JSON lines, for programs")
    command = add(
        "watch",
        _watch,
        "subscribe to the broker and print events, gaps and health as they come",
        "  urbansound watch\n  urbansound watch --host broker.example --json | jq .label",
        configured,
    )
    command.add_argument("--host", help="broker, instead of the configured one")
    command.add_argument("--port", type=_number(1, 65_535), help="its port")
    command.add_argument("--json", action="store_true", help="print the messages as they are")
    command.add_argument("--count", type=_number(1, 10**9), metavar="N", help="stop after N messages")
    return parser


def _add_format(command: argparse.ArgumentParser, outputs: Sequence[str], *, default: str) -> None:
    """`--format` names what comes in, what goes out, or, given twice, both: no name means two things."""
    from agent.wavfile import PCM_FORMATS

    class Format(argparse.Action):
        def __call__(
            self,
            _parser: argparse.ArgumentParser,
            namespace: argparse.Namespace,
            value: object,
            _name: str | None = None,
        ) -> None:
            setattr(namespace, "output" if value in outputs else "pcm_format", value)

    command.add_argument(
        "--format",
        action=Format,
        choices=(*outputs, *PCM_FORMATS),
        metavar="FORMAT",
        help=f"output: {', '.join(outputs)} (default: {default}); or raw PCM: {', '.join(PCM_FORMATS)} "
        "(default: s16le); give it twice to say both",
    )
    command.set_defaults(output=default)


def _channel(text: str) -> int | str:
    if text == "mix":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 1, or mix")
    return int(text)


def _number(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text}: expected a number from {least} to {most}")
        return int(text)

    return number


def _source(text: str) -> "Source":
    from agent.archive import MARK, RemoteFile

    return RemoteFile(text) if MARK in text else Path(text)


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0.01 <= speed <= 1e6:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 0.01 to 1000000")
    return speed


def _start(text: str) -> datetime | str:
    if text == NOW:
        return NOW
    try:
        start = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: expected RFC 3339 such as 2026-01-01T12:00:00Z, or now") from None
    if start.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text}: no time zone, expected for example {text}Z for UTC")
    return start.astimezone(UTC)


def _environment(options: argparse.Namespace) -> Mapping[str, str]:
    """The environment, and over it what the command line says of the configuration."""
    form = getattr(options, "inference", None)
    return os.environ | ({"URBANSOUND_INFERENCE__FORM": form} if form else {})


def _configuration(file: Path | None, environment: Mapping[str, str] = os.environ) -> "Config":
    from agent.config import load_config

    config = load_config(file, environment)
    logging.getLogger().setLevel(config.log.level.upper())
    return config


def _put(text: str) -> None:
    """Write to standard output, at once: somebody may be waiting for it.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        raise OutputError(f"standard output: cannot be written ({error.strerror}), the rest is lost") from error


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
    from agent.wavfile import SUFFIXES, walk

    has_stdin = STANDARD_INPUT in options.paths
    if has_stdin and options.rate is None:
        raise UsageError("- reads raw PCM: --rate is missing, expected samples per second")
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
        channels=options.channels,
        format=options.pcm_format,
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
        print(f"urbansound: {missing}", file=sys.stderr)
    for file in files:
        if stop.is_set():
            break
        try:
            with _opened(file, options, stop) as recording:
                treat(file, recording)
                if recording.n_invalid_samples:
                    print(
                        f"urbansound: {recording.name}: {recording.n_invalid_samples} samples were not numbers, "
                        "taken as silence",
                        file=sys.stderr,
                    )
                problem = recording.problem
        except RecordingError as error:
            problem = str(error)
        if problem:
            failed += 1
            print(f"urbansound: {problem}", file=sys.stderr)
    return SOME_FAILED if failed else 0


def _workers(
    stack: ExitStack, options: argparse.Namespace, files: "Sequence[Source]", judge: "Judge", stop: "Stop"
) -> "Workers | None":
    """Others to judge the files, if they are wanted or worthwhile."""
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
    return stack.enter_context(Workers(judge, crew, files, options.channel, stop=stop))


def _check_replay(options: argparse.Namespace, n_files: int) -> None:
    for name, value in (("jobs", options.jobs), ("dask", options.dask)):
        if options.speed is not None and value is not None:
            raise UsageError(f"--{name} {value}: is for as fast as it goes, expected no --speed and no --realtime")
        if options.coverage is not None and value is not None:
            raise UsageError(f"--{name} {value}: expected no --coverage, for which each sample is looked at here")
    if options.start is not None and n_files > 1:
        raise UsageError(f"--start: says when one recording began, and there are {n_files}")


def _replay(options: argparse.Namespace) -> int:
    from agent import messages
    from agent.app import Judge
    from agent.outbox import Outbox
    from agent.replay import replay
    from agent.stop import StopSignals
    from agent.timesheet import RecordingTimes
    from agent.values import SoundEvent
    from agent.wavfile import start_time_from_name

    files, problems = _recordings(options)
    _check_replay(options, len(files))
    config = _configuration(options.config, _environment(options))
    judge = Judge(config)
    with ExitStack() as stack:
        write = _writer(stack, options.output, EVENT_COLUMNS, _event_line)
        signals = stack.enter_context(StopSignals())
        outbox = None
        if options.publish:
            outbox = Outbox(config, judge, environment=os.environ, stop=signals.stop, replayed=True)
            stack.enter_context(outbox)
        alone = options.speed is not None or options.coverage is not None
        workers = None if alone else _workers(stack, options, files, judge, signals.stop)
        coverage = None if options.coverage is None else stack.enter_context(_written(options.coverage))
        unwritten: list[OutputError] = []

        def treat(file: "Source", recording: "Recording") -> None:
            start = utc_now() if options.start == NOW else options.start or start_time_from_name(PurePath(str(file)))
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
                    event, sample_rate_hz=recording.sample_rate_hz, file=str(file), recording_start=start
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
                _add_line(coverage, times.row(str(file), missing=recording.n_missing))

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
        write = _writer(stack, options.output, CLIP_COLUMNS, _clip_line)
        signals = stack.enter_context(StopSignals())
        workers = _workers(stack, options, files, judge, signals.stop)

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


def _writer(stack: ExitStack, form: str, columns: tuple[str, ...], line: Callable[[Mapping[str, Any]], str]) -> Writer:
    """What puts one row on standard output."""
    if form == "parquet":
        from agent.parquet import ParquetWriter

        if sys.stdout.isatty():
            raise UsageError("--format parquet: is not for a terminal, expected for example > events.parquet")
        return stack.enter_context(ParquetWriter(sys.stdout.buffer, columns)).write
    if form == "jsonl":
        return lambda row: _put(json.dumps({key: value for key, value in row.items() if value is not None}) + "\n")
    if form == "text":
        return lambda row: _put(line(row) + "\n")
    _put(",".join(columns) + "\n")

    def put_row(row: Mapping[str, Any]) -> None:
        text = io.StringIO()
        csv.DictWriter(text, columns, restval="", lineterminator="\n").writerow(row)
        _put(text.getvalue())

    return put_row


def _written(file: Path) -> TextIO:
    """A file of lines, begun anew."""
    try:
        return file.open("w", encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise OutputError(f"{file}: cannot be written ({error.strerror})") from error


def _add_line(file: TextIO, row: Mapping[str, Any]) -> None:
    try:
        file.write(json.dumps(row) + "\n")
        file.flush()
    except OSError as error:
        raise OutputError(f"{file.name}: cannot be written ({error.strerror})") from error


def _event_line(row: Mapping[str, Any]) -> str:
    times = f"{row['onset_s']:10.3f} s to {row['offset_s']:10.3f} s"
    return f"{row['file']}  {times}  {row['label']:18} {row['likelihood_peak']:.2f}"


def _clip_line(row: Mapping[str, Any]) -> str:
    return f"{row['file']}  {row['label']:18} {row['likelihood']:.2f}"


# --- devices, check, watch ---------------------------------------------------------------------------------------


def _devices(_options: argparse.Namespace) -> int:
    from agent.config import toml_lines
    from agent.portaudio import list_devices, shortest_name

    devices = list_devices()
    if not devices:
        print("urbansound: no microphone is known to PortAudio; is one plugged in?", file=sys.stderr)
        return 69
    for device in devices:
        default = "  (default)" if device.is_default else ""
        line = next(toml_lines({"device": shortest_name(device, devices)}))
        _put(
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
    _put("\n".join(lines) + "\n")
    print(f"# {options.file}: all is well", file=sys.stderr)
    return 0


def _bench(options: argparse.Namespace) -> int:
    from agent.bench import as_text, bench

    report = bench(_configuration(options.config, _environment(options)), options.file, options.seconds)
    _put(json.dumps(report.as_json(), indent=1) + "\n" if options.json else as_text(report))
    return 0


def _watch(options: argparse.Namespace) -> int:
    from agent import broker, messages
    from agent.outbox import broker_options

    config = _configuration(options.config)
    changes = {name: getattr(options, name) for name in ("host", "port") if getattr(options, name) is not None}
    mqtt = config.mqtt.model_copy(update=changes)
    received = broker.watch(
        broker_options(mqtt, os.environ),
        *messages.watched_topics(mqtt.prefix),
        on_subscribed=lambda: print(f"watching {mqtt.host}:{mqtt.effective_port}", file=sys.stderr, flush=True),
    )
    for message in itertools.islice(received, options.count):
        if options.json:
            _put(message.payload.decode("utf-8", "replace") + "\n")
        else:
            _put(_message_line(message.topic, messages.read_message(message.payload)) + "\n")
    return 0


def _message_line(topic: str, message: "EventMessage | GapMessage | HealthMessage | None") -> str:
    from agent.messages import GapMessage, HealthMessage

    if message is None:
        return f"{topic}: not a message that this version can read"
    where = f"{message.node}/{message.source}"
    if isinstance(message, HealthMessage):
        liveness = message.liveness
        cause = f" ({liveness.cause})" if liveness.cause else ""
        coverage = f"coverage of this hour {message.coverage_hour_percent:.1f} %"
        if message.coverage_last_hour_percent is not None:
            coverage += f", of the last {message.coverage_last_hour_percent:.1f} %"
        waiting = f", {message.queued} messages wait" if message.queued else ""
        return f"{where}  health  {liveness.state}{cause} since {liveness.since:%H:%M:%S} UTC, {coverage}{waiting}"
    times = f"from {message.start:%H:%M:%S.%f}"[:-3]
    if message.end is not None:
        times += f" to {message.end:%H:%M:%S.%f}"[:-3]
    if isinstance(message, GapMessage):
        return f"{where}  gap     {message.cause:18} {times} UTC, {message.lost_s:.1f} s lost"
    return f"{where}  {message.event_type:6}  {message.label:18} {times} UTC, {message.likelihood_peak:.2f}"


def _coverage(options: argparse.Namespace) -> int:
    from agent.clock import to_ns
    from agent.hours import read_hours
    from agent.outbox import coverage_file
    from agent.timesheet import as_text, hour_rows

    hours = read_hours(coverage_file(_configuration(options.config)))
    rows = hour_rows(hours, now_ns=to_ns(utc_now()), newest=options.hours)
    lines = (json.dumps(row) for row in rows) if options.json else as_text(rows)
    _put("".join(f"{line}\n" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
