"""The outbox: every message waits here until the broker has it, on disk, and in memory while the disk takes nothing.

In: messages from the pipeline thread. Out: the same, oldest first, to the publisher thread, until they are forgotten.
One lock serves both threads.

How a message is kept depends on its kind. When `append` returns, an `event` (a start or an end) is synced: it survives
a kill and a power cut. An `update` or a `gap` is written without a sync of its own: it survives a kill; a power cut may
cost those of the last half minute, unless an `event` came after them. A `level` stays in memory for up to `BATCH_S`, so
that one which the broker takes at once never wears the card; a kill may cost these. Forgetting is written, not synced:
after a power cut, what was delivered in the last half minute may be sent again.

A disk that is full, or fails, stops nobody: messages wait in memory, are sent from there, and are written when there is
room. Only a kill in that time costs them. A file that is damaged is left behind, and what can be read goes on.
"""

import logging
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Literal, Self

from agent.database import Database, Layout
from agent.errors import DatabaseCorruptError, DatabaseError, DatabaseUnwritableError

log = logging.getLogger(__name__)

Kind = Literal["level", "update", "gap", "event"]
KINDS: tuple[Kind, ...] = ("level", "update", "gap", "event")  # in the order in which they are discarded

BATCH_S = 10.0  # how long a level may wait before it is written
BATCH_MESSAGES = 1000
RETRY_S = 1.0  # a disk that takes nothing is asked no more often
RESERVED = 10_000  # numbers, kept on disk before they are used: a kill or a power cut skips those that are left
MAX_UNSAVED_BYTES = 16 << 20  # in memory, while the disk takes nothing

_EVENT = KINDS.index("event")
_MAX_SEQ = 1 << 40  # a thousand messages a second for thirty years; what is higher is damage
_LAYOUT = Layout(
    name="spool",
    application_id=0x75736E64,  # "usnd", so that nobody else's database is taken for a spool
    version=2,
    schema=f"""
CREATE TABLE outbox (seq INTEGER PRIMARY KEY CHECK (seq BETWEEN 1 AND {_MAX_SEQ}), topic TEXT NOT NULL,
    payload BLOB NOT NULL, rank INTEGER NOT NULL DEFAULT {_EVENT} CHECK (rank BETWEEN 0 AND {_EVENT}),
    boot TEXT NOT NULL DEFAULT '', made_s REAL NOT NULL DEFAULT 0, checksum INTEGER) STRICT;
CREATE INDEX least ON outbox (rank, seq) WHERE rank < {_EVENT};
CREATE TABLE open_events (event_id TEXT PRIMARY KEY, since INTEGER NOT NULL, topic TEXT NOT NULL, payload BLOB NOT NULL)
    STRICT;
CREATE TABLE boots (boot TEXT PRIMARY KEY, utc_zero_s REAL NOT NULL) STRICT;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL CHECK (value BETWEEN 0 AND {_MAX_SEQ})) STRICT;
""",
)
_SIZE = "coalesce(length(CAST(topic AS BLOB)) + length(payload), 0)"
_RANK = f"coalesce(max(0, min({_EVENT}, rank)), {_EVENT})"  # of a damaged page anything may come
_LOG_EVERY_DROPPED = 1000
_AT_ONCE = 500  # numbers in one statement
_KEPT_BOOTS = 100


@dataclass(frozen=True, slots=True)
class SpooledMessage:
    """A message that the broker does not have yet.

    Attributes:
        seq: its number, which rises and is never used again.
        topic: where it goes.
        payload: what it says.
        rank: of its kind, in `KINDS`.
        boot: of the machine, when it was made; empty where nobody said.
        made_s: when it was made, in monotonic seconds of that boot.
    """

    seq: int
    topic: str
    payload: bytes
    rank: int
    boot: str
    made_s: float

    @property
    def size_bytes(self) -> int:
        """As `max_bytes` counts."""
        return len(self.topic.encode()) + len(self.payload)

    @property
    def checksum(self) -> int:
        """Tells whether a bad card changed it."""
        return zlib.crc32(self.payload, zlib.crc32(self.topic.encode()))


@dataclass(frozen=True, slots=True)
class OpenEvent:
    """An event of which no end has been appended.

    Attributes:
        event_id: the event.
        topic: where its messages go.
        payload: the last message about it.
    """

    event_id: str
    topic: str
    payload: bytes


@dataclass(slots=True)
class _Stock:
    """How much there is on disk: messages of each kind, and bytes in all."""

    counts: list[int]
    n_bytes: int

    def add(self, rank: int, n_bytes: int, sign: int = 1) -> None:
        self.counts[rank] += sign
        self.n_bytes += sign * n_bytes


class Spool:
    """The outbox. Safe to use from two threads; close it when both are done.

    Args:
        path: the file; its folder is made where it is missing.
        max_messages: beyond this the oldest `level`s are discarded, then `update`s, `gap`s, and `event`s last.
        max_bytes: the same for topics and payloads together; the file may be a quarter larger.
        boot: which boot of the machine this is: `made_s` is counted from there.
        monotonic: seconds on a clock that never steps.

    Raises:
        DatabaseError: the file cannot be opened, is something else, or another agent has it.
    """

    def __init__(
        self,
        path: Path,
        max_messages: int,
        max_bytes: int = 256 << 20,
        *,
        boot: str = "",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._boot = boot
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._told: Callable[[], None] | None = None
        self._dropped_before = self._say_dropped_at = 0
        self._trouble: str | None = None
        self._tried_s = -inf
        # What is not on disk yet:
        self._unsaved: dict[int, SpooledMessage] = {}
        self._unsaved_bytes = 0
        self._forgotten: set[int] = set()
        self._ledger: dict[str, SpooledMessage | None] = {}  # the last about an event; None: it has ended
        # What is; the truth while we live, written with each change:
        self._seq = 0
        self._closing = False
        self._dropped = dict.fromkeys(KINDS, 0)
        self._boots: dict[str, float] = {}
        self._boots_changed = False
        self._counters: dict[str, int] = {}  # as they are on disk
        self._stock = _Stock([0] * len(KINDS), 0)
        self._database: Database | None = None  # None: it could not be opened yet
        try:
            self._open()
        except DatabaseUnwritableError as error:
            self._note_trouble(str(error))
        self._dropped_before = self.dropped

    def __len__(self) -> int:
        """Messages that wait."""
        return sum(self._stock.counts) - len(self._forgotten) + len(self._unsaved)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def last_seq(self) -> int:
        """The number of the newest message, waiting or not; 0 before the first."""
        return self._seq

    @property
    def dropped(self) -> int:
        """Messages discarded, because there was no room or they were too old, since the file was made."""
        return sum(self._dropped.values())

    @property
    def discarded(self) -> Mapping[Kind, int]:
        """The same by kind."""
        return dict(self._dropped)

    @property
    def unsaved(self) -> int:
        """Messages that wait in memory alone."""
        return len(self._unsaved)

    @property
    def trouble(self) -> str | None:
        """Why the disk takes nothing; None while it does."""
        return self._trouble

    @property
    def boots(self) -> Mapping[str, float]:
        """When boots of the machine began, in seconds since 1970: those at which the clock was known to be right."""
        return self._boots

    def on_append(self, told: Callable[[], None] | None) -> None:
        """Have `told` called after each append, on the appending thread; None for nobody. It must be quick."""
        self._told = told

    def append(
        self,
        topic: str,
        payload: Callable[[int], bytes],
        *,
        kind: Kind = "event",
        event_id: str | None = None,
        ends: bool = False,
    ) -> int:
        """Keep a message until it is forgotten.

        Args:
            topic: where it goes.
            payload: makes the message from its `seq`.
            kind: how it is kept, and when it is discarded; see the module.
            event_id: the event that it is about: open from its first message on.
            ends: whether it is the last about that event.

        Returns:
            its `seq`: one more than the last; after a kill or a power cut it skips some, so that none comes twice.

        Raises:
            DatabaseError: the file has become unusable for good.
        """
        with self._lock:
            seq = self._seq + 1
            message = SpooledMessage(seq, topic, payload(seq), KINDS.index(kind), self._boot, self._monotonic())
            self._seq = seq
            self._unsaved[seq] = message
            self._unsaved_bytes += message.size_bytes
            if event_id is not None:
                self._ledger[event_id] = None if ends else message
            # A number may reach the broker before its message reaches the disk, and must not come a second time.
            is_new_number = seq > self._counters.get("seq", 0)
            if kind != "level" or is_new_number or self._batch_is_due():
                self._write(durable=kind == "event" or is_new_number)
            self._bound_memory()
        self._say_what_was_dropped()
        told = self._told
        if told is not None:
            told()
        return seq

    def oldest(
        self, limit: int, *, after: int = 0, until: int = _MAX_SEQ, but_not_to: Collection[str] = ()
    ) -> list[SpooledMessage]:
        """The oldest messages.

        Args:
            limit: at most so many.
            after: only those with a higher `seq`.
            until: only those with this `seq` or a lower one.
            but_not_to: topics to leave out.

        Raises:
            DatabaseError: the file has become unusable for good.
        """
        found: list[SpooledMessage] = []
        with self._lock:
            while len(found) < limit:
                asked = limit - len(found)
                saved = self._read(asked, after, but_not_to)
                found += [each for each in saved if each.seq <= until and each.seq not in self._forgotten]
                if len(saved) < asked or saved[-1].seq > until:
                    break
                after = saved[-1].seq
            found += [
                message
                for message in self._unsaved.values()
                if after < message.seq <= until and message.topic not in but_not_to
            ][: limit - len(found)]
        return found

    def forget(self, seqs: Collection[int]) -> None:
        """Drop messages that the broker has. What is no longer there is skipped.

        Raises:
            DatabaseError: the file has become unusable for good.
        """
        with self._lock:
            for seq in seqs:
                unsaved = self._unsaved.pop(seq, None)
                if unsaved is not None:
                    self._unsaved_bytes -= unsaved.size_bytes
            self._forgotten |= self._ranks(seqs).keys()
            if self._forgotten:
                self._write(durable=False)

    def discard(self, seqs: Collection[int]) -> None:
        """Drop messages that cannot be sent, and count them; otherwise like `forget`."""
        with self._lock:
            ranks = [*self._ranks(seqs).values(), *(self._unsaved[seq].rank for seq in seqs if seq in self._unsaved)]
            for rank in ranks:
                self._dropped[KINDS[rank]] += 1
        self.forget(seqs)
        self._say_what_was_dropped()

    def discard_older(self, utc_s: float) -> None:
        """Drop messages that were made before this time, in seconds since 1970, and count them.

        One of a boot at which the clock was never known to be right is as old as the next one that has an age.
        """
        after, is_younger = 0, False
        ageless: list[int] = []
        while not is_younger and (messages := self.oldest(_AT_ONCE, after=after)):
            too_old: list[int] = []
            for message in messages:
                ageless.append(message.seq)
                began_s = self._boots.get(message.boot)
                if began_s is not None:
                    is_younger = began_s + message.made_s >= utc_s
                    if is_younger:
                        break
                    too_old += ageless
                    ageless = []
            after = messages[-1].seq
            self.discard(too_old)

    def note_boot(self, boot: str, utc_zero_s: float) -> None:
        """Remember when a boot of the machine began: the clock is known to be right now."""
        with self._lock:
            self._boots[boot] = utc_zero_s
            self._boots_changed = True
            self._write(durable=False)

    def save(self) -> None:
        """Try again to write what waits in memory; call it once in a while.

        Raises:
            DatabaseError: the file has become unusable for good.
        """
        with self._lock:
            if self._trouble is not None or self._batch_is_due():
                self._write(durable=True)

    def open_events(self) -> list[OpenEvent]:
        """Events that were begun and not ended, oldest first: at the start of the agent, those that a crash cut short.

        Raises:
            DatabaseError: the file has become unusable for good.
        """
        with self._lock:
            rows = self._rows("SELECT event_id, topic, payload FROM open_events ORDER BY since", ())
        return [OpenEvent(*row) for row in rows]

    def forget_event(self, event_id: str) -> None:
        """An open event of which nobody can tell the end: what is known of it cannot be read.

        Raises:
            DatabaseError: the file has become unusable for good.
        """
        with self._lock:
            self._ledger[event_id] = None
            self._write(durable=False)

    def close(self) -> None:
        """Let go of the file. What waits stays in it."""
        with self._lock:
            if self._database is not None or self._unsaved:
                self._closing = True
                self._tried_s = -inf
                self._write(durable=True)
            if self._database is not None:
                self._database.close()

    def _open(self) -> None:
        """Open the file, and see what is in it."""
        database = Database(self._path, _LAYOUT)
        try:
            self._take_stock(database)
        except DatabaseError:
            database.close()
            raise
        self._database = database

    def _take_stock(self, database: Database) -> None:
        """See what is in the file."""
        counters = dict(database.rows("SELECT name, value FROM counters"))
        ((newest,),) = database.rows("SELECT coalesce(max(seq), 0) FROM outbox")
        stock = _Stock([0] * len(KINDS), 0)
        for rank, count, n_bytes in database.rows(f"SELECT {_RANK}, count(*), sum({_SIZE}) FROM outbox GROUP BY 1"):
            stock.counts[rank] += count
            stock.n_bytes += n_bytes
        # Of a damaged file the counters may be lost, or the messages; and numbers must not come twice.
        self._seq = max(self._seq, newest, counters.get("seq", 0))
        self._dropped = {kind: max(self._dropped[kind], counters.get(f"dropped.{kind}", 0)) for kind in KINDS}
        self._counters = counters
        self._boots = dict(database.rows("SELECT boot, utc_zero_s FROM boots")) | self._boots
        self._stock = stock

    def _read(self, limit: int, after: int, but_not_to: Collection[str]) -> list[SpooledMessage]:
        """What is on disk. What was damaged there is counted, and forgotten with the next change."""
        rows = self._rows(
            f"SELECT seq, topic, payload, {_RANK}, boot, made_s, checksum FROM outbox WHERE seq > ? "
            f"AND topic NOT IN ({', '.join('?' * len(but_not_to))}) ORDER BY seq LIMIT ?",
            (after, *but_not_to, limit),
        )
        messages: list[SpooledMessage] = []
        for *parts, checksum in rows:
            message = SpooledMessage(*parts)
            # SQLite does not look whether a page that it reads is in order.
            if not after < message.seq <= self._seq or [type(part) for part in parts] != [
                int,
                str,
                bytes,
                int,
                str,
                float,
            ]:
                self._begin_anew(DatabaseCorruptError(f"spool {self._path}: is damaged (a page is not in order)"))
                return []
            after = message.seq
            messages.append(message)
            if checksum is not None and checksum != message.checksum and message.seq not in self._forgotten:
                log.error("spool.damaged_message seq=%d", message.seq)
                self._forgotten.add(message.seq)
                self._dropped[KINDS[message.rank]] += 1
        return messages

    def _write(self, *, durable: bool) -> None:
        """Bring what is in memory to the disk. Where it takes nothing, it stays in memory."""
        now_s = self._monotonic()
        if self._trouble is not None and now_s - self._tried_s < RETRY_S:
            return
        self._tried_s = now_s
        for _ in range(2):  # once more after a damaged file was left behind
            try:
                if self._database is None:
                    self._open()
                assert self._database is not None
                with self._database.transaction(durable=durable):
                    stock, counters = self._changed(self._database)
            except DatabaseUnwritableError as error:
                self._note_trouble(str(error))
                return
            except DatabaseCorruptError as error:
                self._begin_anew(error)
            else:
                break
        else:
            return
        if self._trouble is not None:
            log.warning("spool.writable saved=%d", len(self._unsaved))
        self._trouble = None
        self._stock, self._counters = stock, counters
        self._dropped = {kind: counters[f"dropped.{kind}"] for kind in KINDS}
        self._boots_changed = False
        self._unsaved.clear()
        self._unsaved_bytes = 0
        self._forgotten.clear()
        self._ledger.clear()

    def _changed(self, database: Database) -> tuple[_Stock, dict[str, int]]:
        """Inside a transaction: make all changes; give what is then on disk, and what was dropped so far."""
        stock = _Stock(list(self._stock.counts), self._stock.n_bytes)
        dropped = dict(self._dropped)
        for some in _in_parts(self._forgotten):
            for rank, n_bytes in database.rows(
                f"DELETE FROM outbox WHERE seq IN ({_places(some)}) RETURNING {_RANK}, {_SIZE}", some
            ):
                stock.add(rank, n_bytes, -1)
        new = list(self._unsaved.values())
        database.change_each(
            "INSERT OR REPLACE INTO outbox VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(each.seq, each.topic, each.payload, each.rank, each.boot, each.made_s, each.checksum) for each in new],
        )
        for message in new:
            stock.add(message.rank, message.size_bytes)
        for rank, n_bytes in self._make_room(database, stock):
            stock.add(rank, n_bytes, -1)
            dropped[KINDS[rank]] += 1
        for event_id, last in self._ledger.items():
            if last is None:
                database.change("DELETE FROM open_events WHERE event_id = ?", (event_id,))
            else:
                database.change(
                    "INSERT INTO open_events VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET payload = excluded.payload",
                    (event_id, last.seq, last.topic, last.payload),
                )
        if self._boots_changed:
            database.change_each("INSERT OR REPLACE INTO boots VALUES (?, ?)", self._boots.items())
            database.change("DELETE FROM boots WHERE rowid <= (SELECT max(rowid) FROM boots) - ?", (_KEPT_BOOTS,))
        reserved = self._counters.get("seq", 0)
        if self._closing:
            reserved = self._seq
        elif self._seq + RESERVED // 2 > reserved:
            reserved = self._seq + RESERVED
        counters = {"seq": reserved} | {f"dropped.{kind}": count for kind, count in dropped.items()}
        if counters != self._counters:
            database.change_each("INSERT OR REPLACE INTO counters VALUES (?, ?)", counters.items())
        return stock, counters

    def _make_room(self, database: Database, stock: _Stock) -> list[tuple[int, int]]:
        """Delete what is too much: the least first, of these the oldest. Gives rank and size of each."""
        deleted: list[tuple[int, int]] = []
        counts, n_bytes = list(stock.counts), stock.n_bytes
        while (total := sum(counts)) and (total > self._max_messages or n_bytes > self._max_bytes):
            n_least = sum(counts[:_EVENT])
            by_bytes = int((n_bytes - self._max_bytes) * 0.9 / (n_bytes / total))  # a little less than the mean says
            n_wanted = max(1, total - self._max_messages, by_bytes)
            where = f"rank < {_EVENT} ORDER BY rank, seq" if n_least else "TRUE ORDER BY seq"
            limit = min(n_wanted, n_least or total)
            gone = database.rows(
                f"DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox WHERE {where} LIMIT ?) "
                f"RETURNING {_RANK}, {_SIZE}",
                (limit,),
            )
            for rank, size in gone:
                counts[rank] -= 1
                n_bytes -= size
            deleted += gone
        return deleted

    def _bound_memory(self) -> None:
        """While the disk takes nothing, memory has its bound as well."""
        while self._unsaved_bytes > MAX_UNSAVED_BYTES:
            least = min(self._unsaved.values(), key=lambda message: (message.rank, message.seq))
            del self._unsaved[least.seq]
            self._unsaved_bytes -= least.size_bytes
            self._dropped[KINDS[least.rank]] += 1

    def _batch_is_due(self) -> bool:
        oldest = next(iter(self._unsaved.values()), None)
        return oldest is not None and (
            len(self._unsaved) >= BATCH_MESSAGES or self._monotonic() - oldest.made_s >= BATCH_S
        )

    def _ranks(self, seqs: Collection[int]) -> dict[int, int]:
        """The rank of each of these that is on disk and not yet forgotten."""
        found: dict[int, int] = {}
        for some in _in_parts(seqs):
            found |= self._rows(f"SELECT seq, {_RANK} FROM outbox WHERE seq IN ({_places(some)})", some)
        return {seq: rank for seq, rank in found.items() if seq not in self._forgotten}

    def _rows(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        """What a query finds; nothing where the disk fails or the file is damaged."""
        if self._database is None:
            return []
        try:
            return self._database.rows(sql, values)
        except DatabaseUnwritableError as error:
            self._note_trouble(str(error))
        except DatabaseCorruptError as error:
            self._begin_anew(error)
        return []

    def _begin_anew(self, error: DatabaseCorruptError) -> None:
        """Leave a damaged file behind."""
        assert self._database is not None
        try:
            self._database.begin_anew(str(error))
            self._take_stock(self._database)
        except DatabaseUnwritableError as unwritable:
            self._database, self._stock = None, _Stock([0] * len(KINDS), 0)
            self._note_trouble(str(unwritable))

    def _note_trouble(self, reason: str) -> None:
        if self._trouble is None:
            log.error("spool.unwritable reason=%s", reason)
        self._trouble = reason

    def _say_what_was_dropped(self) -> None:
        dropped = self.dropped
        if dropped == self._dropped_before:
            return
        self._dropped_before = dropped
        if dropped >= self._say_dropped_at:
            self._say_dropped_at = dropped + _LOG_EVERY_DROPPED
            log.warning("spool.dropped messages=%d %s", dropped, " ".join(f"{k}={n}" for k, n in self._dropped.items()))


def _in_parts(seqs: Collection[int]) -> Iterator[Sequence[int]]:
    """The numbers, as many at once as a statement takes."""
    left = sorted(seqs)
    for begin in range(0, len(left), _AT_ONCE):
        yield left[begin : begin + _AT_ONCE]


def _places(values: Sequence[int]) -> str:
    return ", ".join("?" * len(values))
