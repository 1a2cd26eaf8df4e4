"""What the commands print: rows in the form that was asked for, and messages as lines; each at once.

In: rows and messages. Out: text on standard output, standard error, or in a file. What cannot be written is an
`OutputError`, except on standard error.
"""

import codecs
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from agent.errors import OutputError, UsageError

if TYPE_CHECKING:
    from agent.wire import AnyMessage

EVENT_COLUMNS = (
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
    "background_la90_db",
    "calibrated",
    "end_reason",
    "start",
    "end",
)
CLIP_COLUMNS = ("file", "label", "likelihood")
LEVEL_COLUMNS = ("file", "duration_s", "laeq_db", "lafmax_db", "la10_db", "la50_db", "la90_db", "calibrated")
INTERVAL_COLUMNS = ("file", "onset_s", *LEVEL_COLUMNS[1:], "silent_s", "clipped_s", "start", "end")

Writer = Callable[[Mapping[str, Any]], None]


def open_closed_streams() -> None:
    """Where a standard stream was closed from the start, the next file or pipe would get its number.

    Nobody reads errors then. Standard input and output fail as closed ones do: nothing may be lost in silence.
    """
    for name, flags, mode in (("stdin", os.O_WRONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, flags)
            os.set_inheritable(number, True)  # processes of ours have the same trouble
            setattr(sys, name, os.fdopen(number, mode, errors="backslashreplace", closefd=False))


def take_any_text() -> None:
    """Have standard output take names of files, which are bytes and go out as they came in, and any other sign.

    What its encoding lacks comes as JSON writes it: a line of JSON stays one.
    """
    codecs.register_error("urbansound", _bytes_or_escapes)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="urbansound")


def _bytes_or_escapes(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeEncodeError:
        return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def let_go(stream: TextIO) -> None:
    """Nobody reads it any more, and Python would complain once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say(line: str) -> None:
    """Say something to a person; where nobody can read it, the exit code alone does."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        let_go(sys.stderr)


def put(text: str) -> None:
    """Write to standard output, at once: somebody may be waiting for it.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        raise OutputError(f"standard output: cannot be written ({error.strerror}), the rest is lost") from error


def row_writer(
    stack: ExitStack, form: str, columns: tuple[str, ...], line: Callable[[Mapping[str, Any]], str]
) -> Writer:
    """What puts one row on standard output.

    Args:
        stack: closes the table, where the form is one.
        form: `csv`, `jsonl`, `text` or `parquet`.
        columns: names of all values that a row may have.
        line: a row as text.

    Raises:
        OutputError: the first line cannot be written.
        UsageError: a terminal cannot show this form.
    """
    if form == "parquet":
        from agent.parquet import ParquetWriter

        if sys.stdout.isatty():
            raise UsageError("--format parquet: is not for a terminal, expected for example > events.parquet")
        return stack.enter_context(ParquetWriter(sys.stdout.buffer, columns)).write
    if form == "jsonl":
        return lambda row: put(json.dumps({key: value for key, value in row.items() if value is not None}) + "\n")
    if form == "text":
        return lambda row: put(line(row) + "\n")
    put(",".join(columns) + "\n")

    def put_row(row: Mapping[str, Any]) -> None:
        text = io.StringIO()
        values = {key: json.dumps(value) if isinstance(value, bool) else value for key, value in row.items()}
        csv.DictWriter(text, columns, restval="").writerow(values)  # its own line ends, or it would not quote a \r
        put(text.getvalue().removesuffix("\r\n") + "\n")

    return put_row


@contextmanager
def line_file(file: Path) -> Iterator[TextIO]:
    """A file of JSON lines, begun anew.

    Raises:
        OutputError: it cannot be written, or what was written cannot be kept.
    """
    with _named_errors(file):
        lines = file.open("w", encoding="utf-8", errors="surrogateescape")
    try:
        yield lines
    finally:
        with _named_errors(file):
            lines.close()


def add_line(file: TextIO, row: Mapping[str, Any]) -> None:
    """Put a row into such a file.

    Raises:
        OutputError: it cannot be written.
    """
    with _named_errors(file.name):
        file.write(json.dumps(row) + "\n")
        file.flush()


@contextmanager
def _named_errors(file: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{file}: cannot be written ({error.strerror})") from error


def event_line(row: Mapping[str, Any]) -> str:
    """A row of `EVENT_COLUMNS` as text."""
    times = f"{row['onset_s']:10.3f} s to {row['offset_s']:10.3f} s"
    loud = "" if row.get("laeq_db") is None else f"  {_decibels(row['laeq_db'], calibrated=row['calibrated'])}"
    return f"{row['file']}  {times}  {row['label']:18} {row['likelihood_peak']:.2f}{loud}"


def _decibels(level_db: float, *, calibrated: bool) -> str:
    return f"{level_db:.1f} dB(A)" if calibrated else f"{level_db:.1f} dBFS(A)"


def clip_line(row: Mapping[str, Any]) -> str:
    """A row of `CLIP_COLUMNS` as text."""
    return f"{row['file']}  {row['label']:18} {row['likelihood']:.2f}"


def one_line(text: str) -> str:
    """JSON as a line of its own: line ends in it can only stand where spaces may."""
    return text.replace("\r", " ").replace("\n", " ")


def message_line(topic: str, message: "AnyMessage | None") -> str:
    """What came from the broker under a topic, as text; None is what could not be read.

    Others wrote it: what could steer a terminal is escaped.
    """
    text = _message_text(topic, message)
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def _message_text(topic: str, message: "AnyMessage | None") -> str:
    from agent.wire import GapMessage, HealthMessage, LevelMessage

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
    if isinstance(message, LevelMessage):
        loud = _decibels(message.laeq_db, calibrated=message.calibrated)
        return f"{where}  level   {loud}, LAFmax {message.lafmax_db:.1f}, LA90 {message.la90_db:.1f}, {times} UTC"
    loud = "" if message.level is None else f", {_decibels(message.level.laeq_db, calibrated=message.level.calibrated)}"
    return f"{where}  {message.event_type:6}  {message.label:18} {times} UTC, {message.likelihood_peak:.2f}{loud}"
