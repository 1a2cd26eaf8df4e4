"""Promises of `agent.parquet`: events as a table that other programs read with the right types."""

import io
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import soundfile
from pyarrow import parquet

from agent.errors import OutputError, UsageError
from agent.parquet import ROWS_AT_ONCE, ParquetWriter
from agent.printout import EVENT_COLUMNS
from tests.commands import CommandFactory
from tests.street import Sound


def test_the_command_writes_the_same_events(siren: Sound, urbansound: CommandFactory, tmp_path: Path) -> None:
    """`replay --format parquet` has the rows of `--format csv`, with numbers as numbers and times as times."""
    recording, table_file, text_file = tmp_path / "20260101_120000.wav", tmp_path / "t.parquet", tmp_path / "t.csv"
    samples, rate_hz = soundfile.read(siren.file)
    soundfile.write(recording, samples, rate_hz)
    for form, file in (("parquet", table_file), ("csv", text_file)):
        with file.open("wb") as output:
            assert urbansound("replay", "--format", form, recording, stdout=output).wait() == 0

    rows = parquet.read_table(table_file).to_pylist()
    lines = text_file.read_text().splitlines()

    assert list(rows[0]) == list(EVENT_COLUMNS) == lines[0].split(",")
    assert len(rows) == len(lines) - 1 >= 1
    for row, line in zip(rows, lines[1:], strict=True):
        name, label, onset_s, *_, start, _end = line.split(",")
        assert (row["file"], row["label"], row["onset_s"]) == (name, label, float(onset_s))
        assert row["start"] == datetime.fromisoformat(start)


def test_what_is_not_known_is_null_and_no_events_are_a_table() -> None:
    """A recording of which nobody knows when it began; a quiet one; and more rows than a group holds."""
    empty, some = io.BytesIO(), io.BytesIO()
    with ParquetWriter(empty, EVENT_COLUMNS):
        pass
    with ParquetWriter(some, EVENT_COLUMNS) as writer:
        for number in range(ROWS_AT_ONCE + 1):
            writer.write({"file": "a.wav", "label": "siren", "onset_s": float(number)})

    assert parquet.read_table(io.BytesIO(empty.getvalue())).num_rows == 0
    rows = parquet.read_table(io.BytesIO(some.getvalue())).to_pylist()
    assert [row["onset_s"] for row in rows] == list(range(ROWS_AT_ONCE + 1))
    assert rows[0]["start"] is None


def test_times_are_utc() -> None:
    """`start` keeps its milliseconds and its zone."""
    stream = io.BytesIO()
    with ParquetWriter(stream, EVENT_COLUMNS) as writer:
        writer.write({"file": "a.wav", "start": "2026-01-01T12:00:00.100Z"})

    (row,) = parquet.read_table(io.BytesIO(stream.getvalue())).to_pylist()
    assert row["start"] == datetime(2026, 1, 1, 12, 0, 0, 100_000, tzinfo=UTC)


def test_a_name_that_is_not_text_is_readable() -> None:
    """A table holds UTF-8 alone: what is none in the name of a file is replaced, and no row is lost."""
    stream = io.BytesIO()
    with ParquetWriter(stream, EVENT_COLUMNS) as writer:
        for name in (b"caf\xe9.wav", "café.wav".encode()):
            writer.write({"file": os.fsdecode(name)})

    rows = parquet.read_table(io.BytesIO(stream.getvalue())).to_pylist()
    assert [row["file"] for row in rows] == ["caf\N{REPLACEMENT CHARACTER}.wav", "café.wav"]


def test_a_full_disk_is_said(urbansound: CommandFactory, siren: Sound) -> None:
    """What cannot be written is an error with its own exit code."""
    with Path("/dev/full").open("wb") as full:
        replaying = urbansound("replay", "--format", "parquet", siren.file, stdout=full)
        assert replaying.wait() == OutputError.exit_code
    assert "standard output: cannot be written" in replaying.stderr


def test_without_pyarrow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The format without the extra is a matter of usage."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(UsageError, match=r"pip install '\.\[cluster\]'"):
        ParquetWriter(io.BytesIO(), EVENT_COLUMNS)
