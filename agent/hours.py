"""Coverage by the hour, on disk for 90 days: what the sensor heard, and until when it knows.

In: tallies from the main thread. Out: the same, for the next start and for `urbansound coverage`, which may read while
the agent runs. A file that cannot be written is never fatal: the sensor hears on, and what is not kept waits in memory.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from agent.coverage import Tally
from agent.database import Database, Layout, read_rows
from agent.errors import DatabaseCorruptError, DatabaseError
from agent.values import GapCause

log = logging.getLogger(__name__)

KEPT_HOURS = 90 * 24

_LAYOUT = Layout(
    name="coverage",
    application_id=0x75736364,  # "uscd"
    version=1,
    schema="""
CREATE TABLE hours (hour INTEGER PRIMARY KEY, heard_ns INTEGER NOT NULL, silent_ns INTEGER NOT NULL,
    clipped_ns INTEGER NOT NULL, lost_ns INTEGER NOT NULL) STRICT;
CREATE TABLE marks (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
""",
    shared=True,
)
_ALL = "SELECT hour, heard_ns, silent_ns, clipped_ns, lost_ns FROM hours ORDER BY hour"
_HEARD_UNTIL, _BOOT, _IS_RIGHT, _DEAF = "heard_until_ns", "boot", "clock_is_right", "deaf_because"
_MONOTONIC = "heard_until_monotonic_ns"


@dataclass(frozen=True, slots=True)
class LastHeard:
    """Where the run before ended.

    Attributes:
        utc_ns: until then all gaps are told.
        boot: of the machine, by whose reckoning that is.
        is_right: whether the clock was right, as far as anybody can say.
        cause: why it was deaf after that; None if it was not, as far as is known.
        monotonic_ns: the same moment since the boot, whatever the clock was set to; None where nobody knows.
    """

    utc_ns: int
    boot: str
    is_right: bool
    cause: GapCause | None
    monotonic_ns: int | None = None


class Hours:
    """The file. Used by one thread.

    Args:
        path: made where it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: Database | None = None
        self._unkept: dict[int, Tally] = {}
        self._complained = False

    def known(self) -> dict[int, Tally]:
        """The hours that are kept; none where the file cannot be read, which is said in the log."""
        return _tallies(self._rows(_ALL))

    def last_heard(self) -> LastHeard | None:
        """Where the run before ended; None where there was none, or nobody can read it."""
        marks = dict(self._rows("SELECT name, value FROM marks"))
        heard_until = marks.get(_HEARD_UNTIL, "")
        if not re.fullmatch("[0-9]{1,19}", heard_until):  # a bad card may have changed it
            return None
        monotonic = marks.get(_MONOTONIC, "")
        cause = marks.get(_DEAF)
        return LastHeard(
            int(heard_until),
            marks.get(_BOOT, ""),
            marks.get(_IS_RIGHT) == "yes",
            cause if cause in get_args(GapCause) else None,
            int(monotonic) if re.fullmatch("[0-9]{1,19}", monotonic) else None,
        )

    def keep(self, news: Mapping[int, Tally], last_heard: LastHeard | None) -> bool:
        """Add to the hours; of more than `KEPT_HOURS` those furthest from the new ones are forgotten.

        Args:
            news: what is new, by hour.
            last_heard: where a run that starts now would go on; None leaves it as it is.

        Returns:
            whether it is on the disk. What is not waits for the next time.
        """
        for hour, tally in news.items():
            self._unkept[hour] = self._unkept.get(hour, Tally()) + tally
        try:
            try:
                self._write(self._opened(), last_heard)
            except DatabaseCorruptError as error:
                self._opened().begin_anew(str(error))
                self._write(self._opened(), last_heard)
        except DatabaseError as error:
            self._complain(error)
            return False
        self._unkept.clear()
        if self._complained:
            self._complained = False
            log.info("coverage.kept")
        return True

    def close(self) -> None:
        """Let go of the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _opened(self) -> Database:
        if self._db is None:
            self._db = Database(self._path, _LAYOUT)
        return self._db

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        try:
            return self._opened().rows(sql)
        except DatabaseError as error:
            self._complain(error)
            return []

    def _write(self, database: Database, last_heard: LastHeard | None) -> None:
        with database.transaction():
            database.change_each(
                "INSERT INTO hours VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "heard_ns = heard_ns + excluded.heard_ns, silent_ns = silent_ns + excluded.silent_ns, "
                "clipped_ns = clipped_ns + excluded.clipped_ns, lost_ns = lost_ns + excluded.lost_ns",
                [(hour, t.heard, t.silent, t.clipped, t.lost) for hour, t in self._unkept.items()],
            )
            # By their distance from what is new: where a clock was once far ahead, its hours go before true ones.
            if self._unkept:
                database.change(
                    "DELETE FROM hours WHERE hour NOT IN (SELECT hour FROM hours ORDER BY abs(hour - ?) LIMIT ?)",
                    (max(self._unkept), KEPT_HOURS),
                )
            if last_heard is not None:
                marks = [
                    (_HEARD_UNTIL, str(last_heard.utc_ns)),
                    (_BOOT, last_heard.boot),
                    (_IS_RIGHT, "yes" if last_heard.is_right else "no"),
                ]
                database.change("DELETE FROM marks WHERE name IN (?, ?)", (_DEAF, _MONOTONIC))
                if last_heard.cause is not None:
                    marks.append((_DEAF, last_heard.cause))
                if last_heard.monotonic_ns is not None:
                    marks.append((_MONOTONIC, str(last_heard.monotonic_ns)))
                database.change_each("INSERT OR REPLACE INTO marks VALUES (?, ?)", marks)

    def _complain(self, error: DatabaseError) -> None:
        if not self._complained:
            self._complained = True
            log.error("coverage.unkept reason=%s", error)
        with suppress(DatabaseError):
            self.close()  # opened anew the next time: perhaps it can be then


def read_hours(path: Path) -> dict[int, Tally]:
    """The hours that a sensor has kept, also while it runs.

    Raises:
        DatabaseError: there is no such file, or it cannot be read.
    """
    return _tallies(read_rows(path, _LAYOUT, _ALL))


def _tallies(rows: Iterable[tuple[Any, ...]]) -> dict[int, Tally]:
    """Rows as tallies by hour, without those that a bad card has changed: SQLite does not look at what it reads."""
    sound = (row for row in rows if all(type(value) is int for value in row) and min(row[1:]) >= 0)
    return {hour: Tally(*ns) for hour, *ns in sound}
