"""Promises of `agent.recordings`: which files are recordings, and when each began."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.recordings import start_time_from_name, walk

NOON = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def test_folders_are_searched_and_files_are_taken(tmp_path: Path) -> None:
    """Folders give the recordings below them, once and sorted; a named file is taken whatever it is called."""
    for name in ["b/2.WAV", "b/deep/1.flac", "b/notes.txt", "b/._2.wav", "a.bin", "z.mp3"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    files, problems = walk([tmp_path / "z.mp3", tmp_path / "b", tmp_path / "a.bin", tmp_path / "b" / "2.WAV"])

    assert [str(file.relative_to(tmp_path)) for file in files] == ["a.bin", "b/2.WAV", "b/deep/1.flac", "z.mp3"]
    assert problems == []


def test_linked_folders_are_searched_once(tmp_path: Path) -> None:
    """An archive on another disk is linked; a link that leads back ends nowhere, and gives nothing twice."""
    archive, folder = tmp_path / "archive", tmp_path / "recordings"
    for file in (archive / "1.wav", folder / "2.wav"):
        file.parent.mkdir()
        file.touch()
    (folder / "archive").symlink_to(archive)
    (folder / "again").symlink_to(archive)
    (archive / "up").symlink_to(folder)

    files, problems = walk([folder])

    assert sorted(file.name for file in files) == ["1.wav", "2.wav"]
    assert problems == []


def test_what_cannot_be_found_stops_nothing(tmp_path: Path) -> None:
    """A missing path and a folder without recordings are told; the others are found all the same."""
    (tmp_path / "x.wav").touch()
    (tmp_path / "empty").mkdir()

    files, problems = walk([tmp_path / "gone", tmp_path / "x.wav", tmp_path / "empty"])

    assert files == [tmp_path / "x.wav"]
    gone, empty = (str(problem) for problem in problems)
    assert gone == f"{tmp_path / 'gone'}: no such file or folder"
    assert empty.startswith(f"{tmp_path / 'empty'}: no recordings in this folder, expected *.aif ")


def test_what_may_not_be_looked_at_stops_nothing(tmp_path: Path) -> None:
    """A path of which the system does not even say what it is, such as one that is too long, is told as well."""
    (tmp_path / "x.wav").touch()
    long = tmp_path / ("a" * 300)

    files, problems = walk([long, tmp_path / "x.wav"])

    assert files == [tmp_path / "x.wav"]
    assert [str(problem) for problem in problems] == [f"{long}: cannot be looked at (File name too long)"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("20260101_120000.wav", NOON),
        ("20260101_120000.WAV", NOON),
        ("20260101_120000T.WAV", NOON),  # AudioMoth, triggered
        ("SMM01234_20260101_120000.wav", NOON),  # Song Meter
        ("REC20260101-120000_part2.flac", NOON),
        ("20260101_120000-0001.wav", NOON),  # a part number, not a zone
        ("20260101T120000Z.ogg", NOON),
        ("site3_20260101T130000+0100_REC.flac", NOON),
        ("20260101T070000-0500.wav", NOON),
        ("20260101120000.wav", NOON),
        ("mic_20260101120000_left.wav", NOON),
        ("2026-01-01T12-00-00Z.wav", NOON),
        ("2026-01-01T12:00:00+00:00.wav", NOON),
        ("2026-01-01_12-00-00.wav", NOON),
        ("2026-01-01 12.00.00.mp3", NOON),
        ("2026-01-01-12-00-00.wav", NOON),
        ("street 2026-01-01T12:00:00.250Z dog.wav", NOON.replace(microsecond=250_000)),
        ("20260101_120000_20260101_130000.wav", NOON),  # from, to
        ("20269999_120000_20260101_120000.wav", NOON),
        ("1767268800.wav", NOON),
        ("node7_1767268800_1.wav", NOON),
        ("1767268800250.wav", NOON.replace(microsecond=250_000)),
        ("1767268800", NOON),
    ],
)
def test_the_start_is_read_from_common_names(name: str, expected: datetime) -> None:
    """The names that recorders give their files say when the recording starts, in UTC."""
    start = start_time_from_name(Path("/data") / name)

    assert start == expected
    assert start.tzinfo is UTC


@pytest.mark.parametrize(
    "name",
    [
        "1-100032-A.ogg",  # ESC-50
        "100652-3-0-0.ogg",  # UrbanSound8K
        "08_003165.flac",  # SONYC
        "street.wav",
        "20260101.wav",  # a day is no start
        "2026-01-01.wav",
        "20260230_120000.wav",
        "20260101_250000.wav",
        "20260101_126000.wav",
        "18260101_120000.wav",
        "99991231_235959.wav",
        "00010101T000000+0100.wav",
        "120260101_120000.wav",
        "20260101_1200001.wav",
        "20260101120061.wav",
        "5551234567.wav",  # the year 2145
        "17672688001.wav",
        "a1767268800.wav",
        "take12.wav",
    ],
)
def test_no_start_is_invented(name: str) -> None:
    """Numbers that are no date, or no date that exists, are not taken for one."""
    assert start_time_from_name(Path(name)) is None


def test_names_of_real_recordings_are_not_mistaken_for_dates(recordings: Path) -> None:
    """None of the public data sets' file names is taken for a date."""
    files, _ = walk([recordings])

    assert len(files) > 2000
    assert [file.name for file in files if start_time_from_name(file) is not None] == []
