"""Which recordings there are, and when each began: what the names of files and folders say.

In: paths. Out: the files that are recordings, sorted; the start of a recording, UTC.
"""

import os
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path, PurePath

from agent.errors import RecordingError

_UNCOMPRESSED = {".wav", ".wave", ".bwf", ".rf64", ".w64", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"}
SUFFIXES = frozenset(_UNCOMPRESSED | {".flac", ".ogg", ".oga", ".opus", ".mp3"})


def walk(paths: Iterable[Path]) -> tuple[list[Path], list[RecordingError]]:
    """Find the recordings: a file that is named is taken as it is, a folder is searched with all its folders.

    Returns:
        The files, sorted, each once; and what could not be found or listed. Neither stops the other. Hidden files
        and files with a suffix that is not one of `SUFFIXES` are passed over in folders; links are followed.
    """
    files: set[Path] = set()
    problems: list[RecordingError] = []
    for path in paths:
        try:
            is_folder, is_there = path.is_dir(), path.exists()
        except OSError as error:  # it may not be asked for, or cannot be a path at all
            problems.append(RecordingError(f"{path}: cannot be looked at ({error.strerror})"))
            continue
        if is_folder:
            found = set(_recordings_below(path, problems))
            if not found:
                problems.append(RecordingError(f"{path}: no recordings in this folder, expected {_known_suffixes()}"))
            files |= found
        elif is_there:
            files.add(path)
        else:
            problems.append(RecordingError(f"{path}: no such file or folder"))
    return sorted(files), problems


def _recordings_below(folder: Path, problems: list[RecordingError]) -> Iterator[Path]:
    def note(error: OSError) -> None:
        problems.append(RecordingError(f"{error.filename}: folder cannot be listed ({error.strerror})"))

    seen = set()
    for here, folders, names in os.walk(folder, onerror=note, followlinks=True):
        where = os.path.realpath(here)
        if where in seen:  # a link into a folder above, or to one that was searched
            folders.clear()
            continue
        seen.add(where)
        for name in names:
            path = Path(here, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                yield path


def _known_suffixes() -> str:
    return " ".join(f"*{suffix}" for suffix in sorted(SUFFIXES))


_CALENDAR = re.compile(
    r"""(?<!\d)
    (\d{4})(?P<dash>-?)(\d{2})(?P=dash)(\d{2})          # 2026-01-01 or 20260101
    (?P<between>[-T_\ ])
    (\d{2})(?P<colon>[-:.]?)(\d{2})(?P=colon)(\d{2})    # 12-00-00, 12:00:00, 12.00.00 or 120000
    (?!\d)
    (?:[.,](?P<fraction>\d{1,6})(?=Z|[+-]\d\d|$))?
    (?P<zone>Z|[+-]\d{2}:?\d{2}(?!\d))?
    """,
    re.VERBOSE,
)
_DIGITS = re.compile(r"(?<![0-9A-Za-z])(\d{14}|\d{13}|\d{10})(?=[ZT]?(?![0-9A-Za-z]))")
# Outside these years a row of digits is some other number.
_FIRST_YEAR, _LAST_YEAR = 2000, 2099


def start_time_from_name(path: PurePath) -> datetime | None:
    """When a recording starts, if its name says so; UTC.

    Known forms, alone or with other words around them: `20260101_120000` (AudioMoth, Song Meter), `20260101120000`,
    `20260101T120000Z`, `20260101T120000+0100`, `2026-01-01T12-00-00Z`, `2026-01-01_12-00-00`, and Unix time in
    seconds (10 digits) or milliseconds (13 digits). A name without a zone is taken as UTC, as AudioMoth means it.

    Returns:
        The start with zone UTC; None if there is none, or none that exists in the years 2000 to 2099.
    """
    stem = path.stem if path.suffix.lower() in SUFFIXES else path.name
    starts = [_from_calendar(match) for match in _CALENDAR.finditer(stem)]
    starts += [_from_digits(match[1]) for match in _DIGITS.finditer(stem)]
    return next((start for start in starts if start is not None), None)


def _from_calendar(match: re.Match[str]) -> datetime | None:
    year, month, day, hour, minute, second = (int(match[i]) for i in (1, 3, 4, 6, 8, 9))
    microsecond = int((match["fraction"] or "0").ljust(6, "0"))
    zone = _zone(match["zone"], iso=match["between"] == "T")
    if not _FIRST_YEAR <= year <= _LAST_YEAR:
        return None
    try:
        return datetime(year, month, day, hour, minute, second, microsecond, zone).astimezone(UTC)
    except ValueError:  # a 30th of February
        return None


def _zone(text: str | None, *, iso: bool) -> timezone:
    if text is None or text == "Z":
        return UTC
    hours, minutes = int(text[1:3]), int(text[-2:])
    # 20260101_120000-0001 is the first part of a recording, not a zone; zones are quarter hours.
    if hours > 14 or minutes % 15 or (text[0] == "-" and not iso):
        return UTC
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)


def _from_digits(digits: str) -> datetime | None:
    if len(digits) == 14:
        match = _CALENDAR.match(f"{digits[:8]}_{digits[8:]}")
        return _from_calendar(match) if match else None
    seconds, milliseconds = (int(digits), 0) if len(digits) == 10 else divmod(int(digits), 1000)
    start = datetime.fromtimestamp(seconds, UTC) + timedelta(milliseconds=milliseconds)
    return start if _FIRST_YEAR <= start.year <= _LAST_YEAR else None
