"""The command line of `urbansound`: words in, options out; what cannot be asked ends with exit code 2."""

import argparse
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from agent import __version__

if TYPE_CHECKING:
    from agent.wavfile import Source

STANDARD_INPUT = Path("-")
NOW = "now"
# Nobody recorded before, and of one that begins in the last, all that a FLAC file can promise (2177 years) has a date.
FIRST_YEAR, LAST_YEAR = 1900, 2999


def argument_parser() -> argparse.ArgumentParser:
    """What can be asked; the options say in `command` which command it was."""
    parser = argparse.ArgumentParser(
        prog="urbansound",
        description="Hears a street, publishes labelled events over MQTT, and keeps the sound to itself.",
        epilog="Each command has --help with examples.",
    )
    parser.add_argument("--version", action="version", version=f"urbansound {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
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
    shared = argparse.ArgumentParser(add_help=False)
    elsewhere = shared.add_mutually_exclusive_group()
    elsewhere.add_argument(
        "--jobs",
        type=_number(1, 1000),
        metavar="N",
        help="processes that judge at once (default: all cores, if there is sound enough to be worth it)",
    )
    elsewhere.add_argument("--dask", metavar="SCHEDULER", help="have a Dask cluster judge, such as tcp://10.0.0.1:8786")
    raw = source.add_argument_group("raw PCM from standard input (PATH is -)")
    raw.add_argument("--rate", type=int, metavar="HZ", help="samples per second")
    raw.add_argument("--channels", type=int, metavar="N", help="interleaved channels (default: 1)")
    raw.set_defaults(pcm_format=None)

    def add(name: str, help: str, examples: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            parents=parents,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    add(
        "run",
        "listen to the microphone and publish what is heard, until told to stop",
        "  urbansound run --config /etc/urbansound/agent.toml\n  URBANSOUND_MQTT__HOST=broker.example urbansound run",
        configured,
        judging,
    )
    command = add(
        "replay",
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
        shared,
    )
    _add_format(command, ("jsonl", "csv", "text", "parquet"), default="jsonl")
    _add_start(command)
    pace = command.add_mutually_exclusive_group()
    pace.add_argument("--realtime", dest="speed", action="store_const", const=1.0, help="as slowly as it happened")
    pace.add_argument("--speed", type=_speed, metavar="X", help="X times real time (default: as fast as it goes)")
    command.add_argument("--publish", action="store_true", help="publish the events over MQTT as well")
    command.add_argument(
        "--coverage", type=Path, metavar="FILE", help="write there how much of each recording was heard, as JSON lines"
    )
    classify = add(
        "classify",
        "name the one class that fits each recording best, as in the paper",
        "  urbansound classify clips/ > labels.csv\n  urbansound classify --format jsonl clip.wav",
        configured,
        judging,
        source,
        shared,
    )
    _add_format(classify, ("csv", "jsonl"), default="csv")
    levels = add(
        "levels",
        "say how loud recordings are, A-weighted; of a calibrator, too",
        "  urbansound levels street.flac\n  urbansound levels --interval 60 recordings/ > levels.csv",
        configured,
        source,
    )
    _add_format(levels, ("csv", "jsonl"), default="csv")
    levels.add_argument(
        "--interval", type=_interval, metavar="S", help="a row for each S seconds: a divisor of 3600 (default: for all)"
    )
    _add_start(levels)
    calibrate = add(
        "calibrate",
        "hear a sound calibrator on the microphone, and say what to write into the configuration",
        "  urbansound calibrate\n  urbansound calibrate --level 114 --config /etc/urbansound/agent.toml",
        configured,
    )
    _add_calibrator(calibrate)
    add("devices", "list the microphones, and what to write into the configuration", "  urbansound devices")
    command = add(
        "check",
        "check a configuration file and print what is in effect, secrets masked",
        "  urbansound check /etc/urbansound/agent.toml",
    )
    command.add_argument("file", type=Path, metavar="FILE")
    command = add(
        "bench",
        "measure how fast the agent is on this machine, stage by stage",
        "  urbansound bench\n  urbansound bench --seconds 600 street.flac\n  urbansound bench --json > bench.json",
        configured,
        judging,
    )
    _add_measuring(command)
    command = add(
        "coverage",
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
        "subscribe to the broker and print events, gaps, levels and health as they come",
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
    from agent.pcm import PCM_FORMATS

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


def _add_calibrator(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--level",
        type=_level,
        default=94.0,
        metavar="DB",
        help="how loud the calibrator is: 60 to 130 dB, at 1 kHz (default: 94)",
    )
    command.add_argument(
        "--seconds", type=_number(3, 60), default=10, metavar="S", help="how long to hear it: 3 to 60 (default: 10)"
    )


def _add_measuring(command: argparse.ArgumentParser) -> None:
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


def _add_start(command: argparse.ArgumentParser) -> None:
    command.add_argument("--start", type=_start, metavar="TIME", help="when the recording began: RFC 3339, or now")


def _level(text: str) -> float:
    try:
        level_db = float(text)
    except ValueError:
        level_db = math.nan
    if not 60.0 <= level_db <= 130.0:
        raise argparse.ArgumentTypeError(f"{text}: expected decibels from 60 to 130")
    return level_db


def _interval(text: str) -> int:
    interval_s = _number(1, 3600)(text)
    if 3600 % interval_s:
        raise argparse.ArgumentTypeError(f"{text}: expected a divisor of 3600")
    return interval_s


def _number(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text}: expected a number from {least} to {most}")
        return int(text)

    return number


def _source(text: str) -> "Source":
    from agent.archive import MARK, RemoteFile

    if not text:  # it would be the folder that one stands in
        raise argparse.ArgumentTypeError("expected a path, and it is empty")
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
        raise argparse.ArgumentTypeError(f"{text}: no time zone, expected for example {start.isoformat()}Z for UTC")
    if not FIRST_YEAR <= start.year <= LAST_YEAR:
        raise argparse.ArgumentTypeError(f"{text}: expected a time in the years {FIRST_YEAR} to {LAST_YEAR}")
    return start.astimezone(UTC)
