"""Promises of `agent.printout`: each row and each message as a line, in the form that was asked for."""

import csv
import io
import json
import re
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from agent.errors import OutputError
from agent.printout import (
    CLIP_COLUMNS,
    EVENT_COLUMNS,
    add_line,
    clip_line,
    event_line,
    line_file,
    message_line,
    put,
    row_writer,
)
from agent.wire import read_message
from tests.conftest import REPOSITORY

EVENT: Mapping[str, Any] = {
    "file": "a, b.wav",
    "label": "siren",
    "onset_s": 1.5,
    "offset_s": 8.25,
    "duration_s": 6.75,
    "likelihood_peak": 0.914,
    "likelihood_mean": 0.74,
    "laeq_db": 68.2,
    "lafmax_db": 75.9,
    "sel_db": 76.5,
    "background_la90_db": None,
    "calibrated": True,
    "end_reason": "quiet",
    "start": None,
    "end": None,
}
CLIP = {"file": "a.wav", "label": "dog_bark", "likelihood": 0.5}


def printed(capsys: pytest.CaptureFixture[str], form: str, event: Mapping[str, Any] = EVENT) -> str:
    with ExitStack() as stack:
        row_writer(stack, form, EVENT_COLUMNS, event_line)(event)
    return capsys.readouterr().out


def test_csv_has_a_header_and_all_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """What is not known is empty, and a comma in a name stays in it."""
    (row,) = csv.DictReader(io.StringIO(printed(capsys, "csv")))

    assert row == {name: "" if value is None else str(value) for name, value in EVENT.items()} | {"calibrated": "true"}


@pytest.mark.parametrize("name", ["new\nline.wav", "icon\r.wav", 'quo"te.wav'])
def test_csv_takes_any_name(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Whatever sign is in the name of a file, its row stays one."""
    (row,) = csv.DictReader(io.StringIO(printed(capsys, "csv", {**EVENT, "file": name}), newline=""))

    assert row["file"] == name


def test_json_leaves_out_what_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    """A row is an object of its own line, with numbers as numbers."""
    line = printed(capsys, "jsonl")

    assert line.count("\n") == 1
    assert json.loads(line) == {name: value for name, value in EVENT.items() if value is not None}


def test_text_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """Where, from when to when, what, how sure, how loud."""
    said = "a, b.wav       1.500 s to      8.250 s  siren              0.91"

    assert printed(capsys, "text") == f"{said}  68.2 dB(A)\n"
    assert printed(capsys, "text", {**EVENT, "laeq_db": -31.84, "calibrated": False}) == f"{said}  -31.8 dBFS(A)\n"
    assert printed(capsys, "text", {**EVENT, "laeq_db": None}) == f"{said}\n"
    assert clip_line(CLIP) == "a.wav  dog_bark           0.50"
    assert tuple(CLIP) == CLIP_COLUMNS


@pytest.mark.parametrize("payload", [b"", b"{}", b"\xff{", b'{"schema": "urbansound.event/9"}'])
def test_a_message_that_cannot_be_read_is_said(payload: bytes) -> None:
    """`watch` goes on with the next one."""
    assert message_line("a/b", read_message(payload)) == "a/b: not a message that this version can read"


def test_a_message_says_how_loud_it_was() -> None:
    """In sound pressure where that is known, else of full scale; nothing where it says nothing."""
    documents = (REPOSITORY / "docs" / "mqtt.md").read_text(encoding="utf-8")
    example = next(block for block in re.findall(r"(?ms)^```json\n(.*?)^```$", documents) if "event/1" in block)
    event = json.loads(example)
    faint = event | {"level": event["level"] | {"laeq_db": -31.8, "calibrated": False}}

    lines = [
        message_line("a/b", read_message(json.dumps(message).encode()))
        for message in (event, faint, {key: value for key, value in event.items() if key != "level"})
    ]

    assert [line.split("UTC, ")[1] for line in lines] == ["0.91, 68.2 dB(A)", "0.91, -31.8 dBFS(A)", "0.91"]


def test_a_level_is_a_line() -> None:
    """How loud it was on average, at most and in the background; and when."""
    documents = (REPOSITORY / "docs" / "mqtt.md").read_text(encoding="utf-8")
    example = next(block for block in re.findall(r"(?ms)^```json\n(.*?)^```$", documents) if "level/1" in block)

    assert message_line("a/b", read_message(example.encode())) == (
        "node-07/street  level   58.4 dB(A), LAFmax 75.9, LA90 50.7, from 12:01:00.000 to 12:02:00.000 UTC"
    )


def test_a_message_cannot_steer_the_terminal() -> None:
    """What another node sends is one line of what can be seen: controls and line breaks come as escapes."""
    documents = (REPOSITORY / "docs" / "mqtt.md").read_text(encoding="utf-8")
    example = next(block for block in re.findall(r"(?ms)^```json\n(.*?)^```$", documents) if "event/1" in block)
    event = json.loads(example) | {"label": "a\x1b[2J\nb café", "node": "n\u202e"}

    line = message_line("a/b", read_message(json.dumps(event).encode()))

    assert r"  a\x1b[2J\nb café " in line
    assert line.startswith(r"n\u202e/")
    assert line.isprintable()
    assert message_line("a\x1b/b", None).startswith(r"a\x1b/b: ")


def test_a_file_of_lines_is_begun_anew(tmp_path: Path) -> None:
    """What stood there is of another run; each line is there as soon as it was added."""
    file = tmp_path / "lines"
    file.write_text("before\n")

    with line_file(file) as lines:
        for row in (EVENT, CLIP):
            add_line(lines, row)
            assert json.loads(file.read_text().splitlines()[-1]) == row
    assert len(file.read_text().splitlines()) == 2


def test_what_cannot_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is not there, a disk that is full, and the same under standard output."""
    with (
        pytest.raises(OutputError, match=r"lines: cannot be written \(No such file or directory\)"),
        line_file(tmp_path / "nowhere" / "lines"),
    ):
        pass
    with (
        pytest.raises(OutputError, match=r"/dev/full: cannot be written \(No space left on device\)"),
        line_file(Path("/dev/full")) as full,  # closing it fails once more
    ):
        add_line(full, CLIP)
    with suppress(OSError), Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr("sys.stdout", full)
        with pytest.raises(OutputError, match=r"standard output: .* the rest is lost"):
            put("x")
