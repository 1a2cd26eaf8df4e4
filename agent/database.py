"""A file of rows that survives a crash, a power cut and a bad card. Owner of SQLite.

In: a path and what stands in the file. Out: rows and transactions. The file is held exclusively: SQLite's own lock
keeps a second agent away, and goes with the process, however that dies. The log is written ahead (WAL): a transaction
that returned survives a kill of the agent; a `durable` one survives a power cut too, and with it all before it. A
`shared` file may be read meanwhile, by `read_rows`; it has a rollback journal, and a reader leaves nothing beside it.

A file that is damaged, or of another version, is never fatal: it is set aside under another name, a fresh one is begun,
and what can still be read is taken over. Not safe for threads: its owner holds a lock.
"""

import errno
import logging
import re
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import DatabaseCorruptError, DatabaseError, DatabaseUnwritableError

log = logging.getLogger(__name__)

READER_S = 2.0  # a reader of a shared file is gone within milliseconds
KEPT_ASIDE = 3  # files; of more, the oldest go: a card that breaks each day must not fill itself with its ruins

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_UNWRITABLE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY}
_UNWRITABLE_ERRNO = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}
_PRIMARY_CODE = 0xFF  # an extended result code holds its primary one in its low byte
_BESIDE = ("-wal", "-journal", "-shm", "")  # the file itself last: an old log beside a new file would be played into it


@dataclass(frozen=True, slots=True)
class Layout:
    """What stands in a file.

    Attributes:
        name: what errors and logs call it, such as `spool`.
        application_id: tells the file from other programs'.
        version: of the tables.
        schema: the statements that make them, and their first rows. Tables have rowids.
        shared: whether others may read the file while it is open.
    """

    name: str
    application_id: int
    version: int
    schema: str
    shared: bool = False


class Database:
    """One open file.

    Args:
        path: its folder is made where it is missing.
        layout: what stands in it.

    Raises:
        DatabaseUnwritableError: the disk is full, read-only, or fails.
        DatabaseError: it cannot be opened, is another program's, or another agent has it.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self._path = path
        self._layout = layout
        with self._named_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._open()
        except DatabaseCorruptError as error:
            self.begin_anew(str(error))
        else:
            self._take_over()

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What a query finds.

        Raises:
            DatabaseCorruptError: the file is damaged: `begin_anew`.
            DatabaseError: it cannot be read.
        """
        with self._named_errors():
            return self._db.execute(sql, values).fetchall()

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[None]:
        """All changes inside are made, or none.

        Args:
            durable: on the disk when this returns, with all earlier ones: one fsync. Otherwise they are the kernel's,
                which writes them within about half a minute.

        Raises:
            DatabaseUnwritableError: the disk is full, read-only, or fails. Nothing is changed then.
            DatabaseCorruptError: the file is damaged: `begin_anew`.
            DatabaseError: it cannot be written for another reason.
        """
        with self._named_errors():
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:  # raised again: whatever ends the block, half of it must not stay
                with suppress(sqlite3.Error):  # a file that fails may fail at this too; what is open is not kept
                    if self._db.in_transaction:  # SQLite rolls back by itself where the disk is full
                        self._db.execute("ROLLBACK")
                raise

    def change(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Inside a transaction: one statement; gives how many rows it changed. Raises what `transaction` does."""
        with self._named_errors():
            return self._db.execute(sql, values).rowcount

    def change_each(self, sql: str, each: Iterable[Sequence[Any]]) -> int:
        """Inside a transaction: one statement for each of these values; gives how many rows it changed."""
        with self._named_errors():
            return self._db.executemany(sql, each).rowcount

    def begin_anew(self, reason: str) -> None:
        """Set the file aside, begin a fresh one, and take over what can be read.

        Args:
            reason: why, for the log.

        Raises:
            DatabaseUnwritableError: the disk is full, read-only, or fails. The next opening goes on from there.
            DatabaseError: the file cannot be renamed.
        """
        self.close()
        if self._damaged.exists():  # we were killed while taking over, and what we had taken is damaged again
            self._rename(self._damaged, self._next_aside())
        self._rename(self._path, self._damaged)
        log.warning("%s.damaged file=%s reason=%s", self._layout.name, self._path, reason)
        self._open()
        self._take_over()

    def close(self) -> None:
        """Let go of the file. Harmless when closed."""
        self._db.close()

    @property
    def _damaged(self) -> Path:
        """What the damaged file is called until all that can be read is taken over."""
        return self._path.with_name(f"{self._path.name}.damaged")

    def _open(self) -> None:
        with self._named_errors():
            patience_s = READER_S if self._layout.shared else 0.0
            self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=patience_s)
        self._db.text_factory = _text
        try:
            with self._named_errors():
                self._make_ready()
        except DatabaseError:
            self._db.close()
            raise

    def _make_ready(self) -> None:
        layout = self._layout
        if not layout.shared:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        is_new = application == 0 and not tables
        if not is_new:
            (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise DatabaseCorruptError(f"{self._name}: is damaged ({found})")
            if application != layout.application_id and not tables & _tables_of(layout.schema):
                raise DatabaseError(f"{self._name}: is another program's database, expected a {layout.name} or no file")
            if application != layout.application_id:
                raise DatabaseCorruptError(f"{self._name}: is damaged (its application id is {application})")
            if version != layout.version:
                raise DatabaseCorruptError(f"{self._name}: has version {version}, this agent reads {layout.version}")
        self._db.execute(f"PRAGMA journal_mode = {'DELETE' if layout.shared else 'WAL'}")
        if is_new:
            with self.transaction():
                self._db.execute(f"PRAGMA application_id = {layout.application_id}")
                self._db.execute(f"PRAGMA user_version = {layout.version}")
                for statement in layout.schema.split(";"):
                    self._db.execute(statement)

    def _take_over(self) -> None:
        """Copy what can be read of a file that was set aside; after a crash in the middle, once more."""
        damaged = self._damaged
        if not damaged.exists():
            return
        try:
            taken = self._copy_from(damaged)
            aside = self._next_aside()
            self._rename(damaged, aside)
        except DatabaseError:
            self.close()
            raise
        log.warning("%s.set_aside file=%s rows_taken_over=%d", self._layout.name, aside, taken)

    def _copy_from(self, damaged: Path) -> int:
        taken = 0
        with self.transaction():
            for table in _tables_of(self._layout.schema):
                columns = [name for _, name, *_ in self._db.execute(f"PRAGMA table_info({table})")]
                for row in _readable_rows(damaged, table, columns):
                    places = ", ".join("?" * len(row))
                    with suppress(sqlite3.IntegrityError):  # it has what no row of ours has: damaged as well
                        taken += self._db.execute(
                            f"INSERT OR REPLACE INTO {table} ({', '.join(row)}) VALUES ({places})", list(row.values())
                        ).rowcount
        return taken

    def _rename(self, file: Path, new: Path) -> None:
        with self._named_errors():
            for beside in _BESIDE:
                with suppress(FileNotFoundError):
                    Path(f"{file}{beside}").replace(f"{new}{beside}")

    def _next_aside(self) -> Path:
        """A free name for a file that is set aside; the oldest of too many are deleted."""
        name = self._path.name
        pattern = re.compile(re.escape(name) + r"\.aside-(\d+)")
        with self._named_errors():
            matches = [pattern.fullmatch(file.name) for file in self._path.parent.iterdir()]
            numbers = sorted(int(match[1]) for match in matches if match)
            for number in numbers[: max(0, len(numbers) - KEPT_ASIDE + 1)]:
                for beside in _BESIDE:
                    self._path.with_name(f"{name}.aside-{number}{beside}").unlink(missing_ok=True)
        return self._path.with_name(f"{name}.aside-{max(numbers, default=0) + 1}")

    @property
    def _name(self) -> str:
        return f"{self._layout.name} {self._path}"

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = (getattr(error, "sqlite_errorcode", None) or 0) & _PRIMARY_CODE
            if code == sqlite3.SQLITE_BUSY:
                raise DatabaseError(
                    f"{self._name}: is in use by another agent, expected one agent a {self._layout.name}"
                ) from error
            if code in _DAMAGED:
                raise DatabaseCorruptError(f"{self._name}: is damaged ({error})") from error
            if code == sqlite3.SQLITE_CANTOPEN:
                self._ask_the_folder()
            kind = DatabaseUnwritableError if code in _UNWRITABLE else DatabaseError
            raise self._unusable(str(error), kind) from error
        except UnicodeDecodeError as error:  # Python fails to word SQLite's error, which quotes the damaged bytes
            raise DatabaseCorruptError(f"{self._name}: is damaged ({error})") from error
        except OSError as error:
            raise self._not_possible(error) from error

    def _ask_the_folder(self) -> None:
        """SQLite does not say why it cannot make a file: no inode left, read-only, or not allowed."""
        try:
            tempfile.TemporaryFile(dir=self._path.parent).close()
        except OSError as error:
            raise self._not_possible(error) from error

    def _not_possible(self, error: OSError) -> DatabaseError:
        kind = DatabaseUnwritableError if error.errno in _UNWRITABLE_ERRNO else DatabaseError
        return self._unusable(error.strerror or str(error), kind)

    def _unusable(self, reason: str, kind: type[DatabaseError]) -> DatabaseError:
        return kind(f"{self._name}: cannot be used ({reason}), expected a file in a folder where the agent can write")


def read_rows(path: Path, layout: Layout, sql: str) -> list[tuple[Any, ...]]:
    """What a query finds in a shared file, which the agent may be writing. Nothing is changed, not even beside it.

    Raises:
        DatabaseError: there is no such file, it is something else, of another version, or cannot be read.
    """
    try:
        path.open("rb").close()  # SQLite does not say why it cannot open a file
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=READER_S)
        database.text_factory = _text
        try:
            (application,) = database.execute("PRAGMA application_id").fetchone()
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if (application, version) != (layout.application_id, layout.version):
                raise DatabaseError(f"{layout.name} {path}: expected a file of version {layout.version} of this agent")
            return database.execute(sql).fetchall()
        finally:
            database.close()
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter: Python fails to word SQLite's error
        raise DatabaseError(f"{layout.name} {path}: cannot be read ({error})") from error
    except OSError as error:
        raise DatabaseError(f"{layout.name} {path}: cannot be read ({error.strerror})") from error


def _text(raw: bytes) -> str:
    """A bit that flipped inside a text passes SQLite's check: such a row is read, and its owner judges it."""
    return raw.decode("utf-8", "replace")


def _tables_of(schema: str) -> set[str]:
    return set(re.findall(r"CREATE TABLE (\w+)", schema))


def _readable_rows(file: Path, table: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of a damaged file: from the first up to the damage, and from the last down to it."""
    database = sqlite3.connect(file, isolation_level=None, timeout=0.0)
    database.text_factory = _text
    try:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        there = {name for _, name, *_ in database.execute(f"PRAGMA table_info({table})")}
        known = [name for name in columns if name in there]
        select = f"SELECT rowid, {', '.join(known)} FROM {table}"
        upper: int | None = None
        for rowid, values in _until_damaged(database.execute(f"{select} ORDER BY rowid"), rising=True):
            upper = rowid
            yield dict(zip(known, values, strict=True))
        beyond = "" if upper is None else f"WHERE rowid > {upper}"
        for _, values in _until_damaged(database.execute(f"{select} {beyond} ORDER BY rowid DESC"), rising=False):
            yield dict(zip(known, values, strict=True))
    except (sqlite3.Error, UnicodeDecodeError):
        return  # nothing of this table can be read
    finally:
        database.close()


def _until_damaged(cursor: sqlite3.Cursor, *, rising: bool) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Rows until reading fails, or their numbers go the wrong way: a damaged tree may lead in a circle."""
    last: int | None = None
    while True:
        try:
            row = cursor.fetchone()
        except (sqlite3.Error, UnicodeDecodeError):
            return
        if row is None or (last is not None and (row[0] > last) != rising):
            return
        last = row[0]
        yield row[0], row[1:]
