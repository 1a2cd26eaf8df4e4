"""The outbox on disk: every message waits here until the broker has it.

In: messages from the pipeline thread. Out: the same, oldest first, to the publisher thread, until they are forgotten.
When `append` returns, the message survives a crash of the agent and a power cut (write-ahead log, synced per message).

One connection under one lock serves both threads.
"""

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from agent.database import Database, Layout

log = logging.getLogger(__name__)

_LAYOUT = Layout(
    name="spool",
    application_id=0x75736E64,  # "usnd", so that nobody else's database is taken for a spool
    version=1,
    schema="""
CREATE TABLE outbox (seq INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL) STRICT;
CREATE TABLE open_events (event_id TEXT PRIMARY KEY, since INTEGER NOT NULL, topic TEXT NOT NULL, payload BLOB NOT NULL)
    STRICT;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
INSERT INTO counters VALUES ('seq', 0), ('dropped', 0);
""",
)
_LOG_EVERY_DROPPED = 1000


@dataclass(frozen=True, slots=True)
class SpooledMessage:
    """A message that the broker does not have yet.

    Attributes:
        seq: its number, which rises and is never used again.
        topic: where it goes.
        payload: what it says.
    """

    seq: int
    topic: str
    payload: bytes


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


class Spool:
    """The outbox. Safe to use from two threads; close it when both are done.

    Args:
        path: the SQLite file; its folder is made where it is missing.
        max_messages: beyond this the oldest are dropped, and counted.

    Raises:
        DatabaseError: the file cannot be opened or written, is something else, or another agent has it.
    """

    def __init__(self, path: Path, max_messages: int) -> None:
        self._max_messages = max_messages
        self._lock = threading.Lock()
        self._told: Callable[[], None] | None = None
        self._say_dropped_at = 0
        self._db = Database(path, _LAYOUT)
        with self._db.transaction():  # of a damaged file the counters may be lost, and numbers must not come twice
            self._db.change("INSERT OR IGNORE INTO counters VALUES ('seq', 0), ('dropped', 0)")
            self._db.change(
                "UPDATE counters SET value = max(value, (SELECT coalesce(max(seq), 0) FROM outbox)) WHERE name = 'seq'"
            )
        self._dropped: int = self._db.rows("SELECT value FROM counters WHERE name = 'dropped'")[0][0]
        self._count: int = self._db.rows("SELECT count(*) FROM outbox")[0][0]

    def __len__(self) -> int:
        """Messages that wait."""
        return self._count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def dropped(self) -> int:
        """Messages dropped because the spool was full, since the file was made."""
        return self._dropped

    def on_append(self, told: Callable[[], None] | None) -> None:
        """Have `told` called after each append, on the appending thread; None for nobody. It must be quick."""
        self._told = told

    def append(
        self, topic: str, payload: Callable[[int], bytes], *, event_id: str | None = None, ends: bool = False
    ) -> int:
        """Keep a message until it is forgotten. On disk when this returns.

        Args:
            topic: where it goes.
            payload: makes the message from its `seq`.
            event_id: the event that it is about: open from its first message on.
            ends: whether it is the last about that event.

        Returns:
            its `seq`: one more than the last, over restarts too.

        Raises:
            DatabaseError: the disk is full or fails. The message is not kept then, and its `seq` not used up.
        """
        with self._lock:
            with self._db.transaction():
                ((seq,),) = self._db.rows("UPDATE counters SET value = value + 1 WHERE name = 'seq' RETURNING value")
                content = payload(seq)
                self._db.change("INSERT INTO outbox VALUES (?, ?, ?)", (seq, topic, content))
                if event_id is not None:
                    self._note_event(event_id, ends, seq, topic, content)
                surplus = max(0, self._count + 1 - self._max_messages)
                if surplus:
                    self._drop_oldest(surplus)
            self._count += 1 - surplus
            self._dropped += surplus
        if surplus and self._dropped >= self._say_dropped_at:
            self._say_dropped_at = self._dropped + _LOG_EVERY_DROPPED
            log.warning("spool.full max_messages=%d dropped=%d", self._max_messages, self._dropped)
        told = self._told
        if told is not None:
            told()
        return int(seq)

    def oldest(self, limit: int, *, after: int = 0, but_not_to: Collection[str] = ()) -> list[SpooledMessage]:
        """The oldest messages.

        Args:
            limit: at most so many.
            after: only those with a higher `seq`.
            but_not_to: topics to leave out.

        Raises:
            DatabaseError: the disk fails.
        """
        with self._lock:
            rows = self._db.rows(
                "SELECT seq, topic, payload FROM outbox WHERE seq > ? "
                f"AND topic NOT IN ({', '.join('?' * len(but_not_to))}) ORDER BY seq LIMIT ?",
                (after, *but_not_to, limit),
            )
        return [SpooledMessage(*row) for row in rows]

    def forget(self, seqs: Collection[int]) -> None:
        """Drop messages that the broker has. What is no longer there is skipped.

        Raises:
            DatabaseError: the disk fails. The messages are kept then.
        """
        if not seqs:
            return
        with self._lock:
            with self._db.transaction():
                deleted = self._db.change_each("DELETE FROM outbox WHERE seq = ?", [(seq,) for seq in seqs])
            self._count -= deleted

    def open_events(self) -> list[OpenEvent]:
        """Events that were begun and not ended, oldest first: at the start of the agent, those that a crash cut short.

        Raises:
            DatabaseError: the disk fails.
        """
        with self._lock:
            rows = self._db.rows("SELECT event_id, topic, payload FROM open_events ORDER BY since")
        return [OpenEvent(*row) for row in rows]

    def forget_event(self, event_id: str) -> None:
        """An open event of which nobody can tell the end: what is known of it cannot be read.

        Raises:
            DatabaseError: the disk fails.
        """
        with self._lock, self._db.transaction():
            self._db.change("DELETE FROM open_events WHERE event_id = ?", (event_id,))

    def close(self) -> None:
        """Let go of the file. What waits stays in it."""
        with self._lock:
            self._db.close()

    def _note_event(self, event_id: str, ends: bool, seq: int, topic: str, payload: bytes) -> None:
        if ends:
            self._db.change("DELETE FROM open_events WHERE event_id = ?", (event_id,))
        else:
            self._db.change(
                "INSERT INTO open_events VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET payload = excluded.payload",
                (event_id, seq, topic, payload),
            )

    def _drop_oldest(self, surplus: int) -> None:
        self._db.change("DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox ORDER BY seq LIMIT ?)", (surplus,))
        self._db.change("UPDATE counters SET value = value + ? WHERE name = 'dropped'", (surplus,))
