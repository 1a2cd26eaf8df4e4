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
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Self, TypeVar

from agent.clock import utc_now
from agent.errors import DatabaseCorruptError, DatabaseUnwritableError
from agent.shelf import AT_ONCE, KINDS, Changes, Kind, OpenEvent, Shelf, SpooledMessage

log = logging.getLogger(__name__)

T = TypeVar("T")

BATCH_S = 10.0  # how long a level may wait before it is written
BATCH_MESSAGES = 1000
RETRY_S = 1.0  # a disk that takes nothing is asked no more often
RESERVED = 10_000  # numbers, kept on disk before they are used: a kill or a power cut skips those that are left
NOT_BEFORE_S = 1_767_225_600  # 2026: a clock that says less is not set
MAX_UNSAVED_BYTES = 16 << 20  # in memory, while the disk takes nothing

_LOG_EVERY_DROPPED = 1000


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
        self._changes = Changes()  # what is not on disk yet
        self._unsaved_bytes = 0
        self._seq = 0
        self._dropped = dict.fromkeys(KINDS, 0)
        self._boots: dict[str, float] = {}
        self._closing = False
        self._shelf: Shelf | None = None  # None: it could not be opened yet
        self._left_open: set[str] = set()  # events in a damaged file that could not be made anew yet
        try:
            self._open()
        except DatabaseUnwritableError as error:
            self._seq = _higher_than_any()
            self._note_trouble(str(error))
        self._dropped_before = self.dropped
        # Now, and not with the next event: of half a million messages it takes minutes, for which nobody would listen.
        self._asked(lambda shelf: shelf.trim())
        if self._shelf is not None:
            self._dropped = dict(self._shelf.dropped)
        self._say_what_was_dropped()
        self._count()

    def __len__(self) -> int:
        """Messages that wait, as of the last change; does not wait for one that is under way."""
        return self._n_waiting

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
        return len(self._changes.new)

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
        with self._changing():
            seq = self._seq + 1
            message = SpooledMessage(seq, topic, payload(seq), KINDS.index(kind), self._boot, self._monotonic())
            self._seq = seq
            self._changes.new[seq] = message
            self._unsaved_bytes += message.size_bytes
            if event_id is not None:
                self._note_event(event_id, None if ends else message)
            # A number may reach the broker before its message reaches the disk, and must not come a second time.
            is_reserved = self._shelf is not None and seq <= self._shelf.seq
            if kind != "level" or not is_reserved or self._batch_is_due():
                self._write(durable=kind == "event" or not is_reserved)
            self._bound_memory()
        self._say_what_was_dropped()
        told = self._told
        if told is not None:
            told()
        return seq

    def oldest(
        self, limit: int, *, after: int = 0, until: int | None = None, but_not_to: Collection[str] = ()
    ) -> list[SpooledMessage]:
        """The oldest messages.

        Args:
            limit: at most so many.
            after: only those with a higher `seq`.
            until: only those with this `seq` or a lower one; None for all.
            but_not_to: topics to leave out.

        Raises:
            DatabaseError: the file has become unusable for good.
        """
        found: list[SpooledMessage] = []
        with self._changing():
            until = self._seq if until is None else until
            while len(found) < limit:
                asked = limit - len(found)
                saved = self._read(asked, after, but_not_to)
                found += [each for each in saved if each.seq <= until and each.seq not in self._changes.forgotten]
                if len(saved) < asked or saved[-1].seq > until:
                    break
                after = saved[-1].seq
            found += [
                message
                for message in self._changes.new.values()
                if after < message.seq <= until and message.topic not in but_not_to
            ][: limit - len(found)]
        return found

    def forget(self, seqs: Collection[int]) -> None:
        """Drop messages that the broker has. What is no longer there is skipped.

        Raises:
            DatabaseError: the file has become unusable for good.
        """
        with self._changing():
            for seq in seqs:
                unsaved = self._changes.new.pop(seq, None)
                if unsaved is not None:
                    self._unsaved_bytes -= unsaved.size_bytes
            self._changes.forgotten |= self._saved(seqs).keys()
            if self._changes.forgotten:
                self._write(durable=False)

    def discard(self, seqs: Collection[int]) -> None:
        """Drop messages that cannot be sent, and count them; otherwise like `forget`."""
        with self._changing():
            unsaved = {seq: self._changes.new[seq].rank for seq in seqs if seq in self._changes.new}
            for rank in (self._saved(seqs) | unsaved).values():
                self._dropped[KINDS[rank]] += 1
        self.forget(seqs)
        self._say_what_was_dropped()

    def discard_older(self, utc_s: float) -> None:
        """Drop messages that were made before this time, in seconds since 1970, and count them.

        One of a boot at which the clock was never known to be right is as old as the next one that has an age.
        """
        after, is_younger = 0, False
        ageless: list[int] = []
        while not is_younger and (messages := self.oldest(AT_ONCE, after=after)):
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
        with self._changing():
            self._boots[boot] = self._changes.boots[boot] = utc_zero_s
            self._write(durable=False)

    def save(self) -> None:
        """Try again to write what waits in memory; call it once in a while.

        Raises:
            DatabaseError: the file has become unusable for good.
        """
        with self._changing():
            if self._trouble is not None or self._batch_is_due():
                self._write(durable=True)

    def open_events(self) -> list[OpenEvent]:
        """Events that were begun and not ended, oldest first: at the start of the agent, those that a crash cut short.

        Raises:
            DatabaseError: the file has become unusable for good.
        """
        with self._changing():
            return self._asked(lambda shelf: shelf.open_events()) or []

    def forget_event(self, event_id: str) -> None:
        """An open event of which nobody can tell the end: what is known of it cannot be read.

        Raises:
            DatabaseError: the file has become unusable for good.
        """
        with self._changing():
            self._note_event(event_id, None)
            self._write(durable=False)

    def close(self) -> None:
        """Let go of the file. What waits stays in it."""
        with self._changing():
            if self._changes.new or self._shelf is not None:
                self._closing = True
                self._tried_s = -inf
                self._write(durable=True)
            if self._shelf is not None:
                self._shelf.close()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One thread at a time; how many wait is counted when all is in its place again."""
        with self._lock:
            try:
                yield
            finally:
                self._count()

    def _count(self) -> None:
        saved = 0 if self._shelf is None else len(self._shelf) - len(self._changes.forgotten)
        self._n_waiting = saved + len(self._changes.new)

    def _open(self) -> None:
        """Open the file; what memory knows better stays."""
        shelf = Shelf(self._path, self._max_messages, self._max_bytes)
        self._seq = max(self._seq, shelf.seq)
        self._dropped = {kind: max(count, shelf.dropped[kind]) for kind, count in self._dropped.items()}
        self._boots = shelf.boots | self._boots
        self._shelf = shelf

    def _note_event(self, event_id: str, last: SpooledMessage | None) -> None:
        """What the disk is to know of an event; nothing of one that has begun and ended while it took nothing."""
        on_disk = self._left_open if self._shelf is None else self._shelf.open_ids
        if last is not None or event_id in on_disk:
            self._changes.ledger[event_id] = last
        else:
            self._changes.ledger.pop(event_id, None)

    def _read(self, limit: int, after: int, but_not_to: Collection[str]) -> list[SpooledMessage]:
        """What is on disk. What was damaged there is counted, and forgotten with the next change."""
        found = self._asked(lambda shelf: shelf.read(limit, after=after, newest=self._seq, but_not_to=but_not_to)) or []
        for message, is_sound in found:
            if not is_sound and message.seq not in self._changes.forgotten:
                log.error("spool.damaged_message seq=%d", message.seq)
                self._changes.forgotten.add(message.seq)
                self._dropped[KINDS[message.rank]] += 1
        return [message for message, _ in found]

    def _saved(self, seqs: Collection[int]) -> dict[int, int]:
        """The rank of each of these that is on disk and not yet forgotten."""
        found = self._asked(lambda shelf: shelf.ranks(seqs)) or {}
        return {seq: rank for seq, rank in found.items() if seq not in self._changes.forgotten}

    def _asked(self, question: Callable[[Shelf], T]) -> T | None:
        """What is on disk; None where it fails or the file is damaged."""
        if self._shelf is None:
            return None
        try:
            return question(self._shelf)
        except DatabaseUnwritableError as error:
            self._note_trouble(str(error))
        except DatabaseCorruptError as error:
            self._begin_anew(self._shelf, error)
        return None

    def _write(self, *, durable: bool) -> None:
        """Bring what is in memory to the disk. Where it takes nothing, it stays in memory."""
        now_s = self._monotonic()
        if self._trouble is not None and now_s - self._tried_s < RETRY_S:
            return
        durable = durable or self._trouble is not None  # events may be among what has waited
        self._tried_s = now_s
        try:
            if not self._is_written(durable=durable) and not self._is_written(durable=durable):
                return  # the file was damaged, and so is the fresh one
        except DatabaseUnwritableError as error:
            self._note_trouble(str(error))
            return
        if self._trouble is not None:
            log.warning("spool.writable saved=%d", len(self._changes.new))
        self._trouble = None
        self._changes = Changes()
        self._unsaved_bytes = 0

    def _is_written(self, *, durable: bool) -> bool:
        """Try once; False where the file was damaged, and a fresh one has been begun."""
        if self._shelf is None:
            self._open()
        assert self._shelf is not None
        try:
            reserved = self._reserved(self._shelf.seq)
            self._shelf.write(self._changes, seq=reserved, dropped=self._dropped, durable=durable)
        except DatabaseCorruptError as error:
            self._begin_anew(self._shelf, error)
            return False
        self._dropped = dict(self._shelf.dropped)
        return True

    def _reserved(self, before: int) -> int:
        """Up to which number the file says that they are used: some more than are, until it is closed."""
        if self._closing:
            return self._seq
        return before if before >= self._seq + RESERVED // 2 else self._seq + RESERVED

    def _begin_anew(self, shelf: Shelf, error: DatabaseCorruptError) -> None:
        """Leave a damaged file behind."""
        try:
            shelf.begin_anew(str(error))
            self._changes.forgotten &= shelf.ranks(self._changes.forgotten).keys()
        except DatabaseUnwritableError as unwritable:
            self._shelf, self._left_open = None, shelf.open_ids
            self._note_trouble(str(unwritable))

    def _bound_memory(self) -> None:
        """While the disk takes nothing, memory has its bound as well."""
        while self._unsaved_bytes > MAX_UNSAVED_BYTES:
            least = min(self._changes.new.values(), key=lambda message: (message.rank, message.seq))
            del self._changes.new[least.seq]
            self._unsaved_bytes -= least.size_bytes
            self._dropped[KINDS[least.rank]] += 1

    def _batch_is_due(self) -> bool:
        oldest = next(iter(self._changes.new.values()), None)
        return oldest is not None and (
            len(self._changes.new) >= BATCH_MESSAGES or self._monotonic() - oldest.made_s >= BATCH_S
        )

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


def _higher_than_any() -> int:
    """A number that nobody has given: hundredths of a second since 1970. A file that cannot be read may hold others."""
    return round(max(utc_now().timestamp(), NOT_BEFORE_S) * 100)
