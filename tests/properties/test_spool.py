"""The spool against a list in memory, over restarts and kills."""

import shutil
import tempfile
from collections import OrderedDict
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agent.shelf import KINDS, Kind
from agent.spool import Spool

TOPICS = ("a", "b", "c")
EVENTS = ("one", "two", "three")
PLENTY = 1000

Message = tuple[int, str, bytes]


class SpoolBesideAList(RuleBasedStateMachine):
    """Whatever is done to the spool is done to a list; they must agree after each step."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="spool-")
        self._here = Path(self._folder.name) / "0"
        self._here.mkdir()
        self.waiting: list[Message] = []
        self.kinds: dict[int, Kind] = {}
        self.open: OrderedDict[str, bytes] = OrderedDict()
        self.seq = self.dropped = 0
        self.was_killed = False

    @initialize(max_messages=some.integers(1, 12))
    def begin(self, max_messages: int) -> None:
        self.max_messages = max_messages
        self.spool = self._opened()

    @rule(topic=some.sampled_from(TOPICS), content=some.binary(max_size=200), kind=some.sampled_from(KINDS))
    def append(self, topic: str, content: bytes, kind: Kind) -> None:
        self._keep((self.spool.append(topic, lambda _: content, kind=kind), topic, content), kind)

    @rule(event=some.sampled_from(EVENTS), ends=some.booleans(), content=some.binary(max_size=20))
    def append_event(self, event: str, ends: bool, content: bytes) -> None:
        seq = self.spool.append("event", lambda _: content, event_id=event, ends=ends)
        if ends:
            self.open.pop(event, None)
        else:
            self.open[event] = content
        self._keep((seq, "event", content), "event")

    @rule(topic=some.sampled_from(TOPICS))
    def fail_to_append(self, topic: str) -> None:
        """What cannot be worded is not kept, and takes no number."""

        def unworded(_seq: int) -> bytes:
            raise KeyError(topic)

        try:
            self.spool.append(topic, unworded)
        except KeyError:
            return
        raise AssertionError("the error was swallowed")

    @rule(which=some.sets(some.integers(0, 12), max_size=8))
    def forget(self, which: set[int]) -> None:
        seqs = [message[0] for number, message in enumerate(self.waiting) if number in which]
        self.spool.forget([*seqs, PLENTY * PLENTY])  # of the last, nobody has heard
        self.waiting = [message for message in self.waiting if message[0] not in seqs]

    @rule()
    def restart(self) -> None:
        self.spool.close()  # writes what is in memory, and makes room for it
        self.spool = self._opened()
        self._make_room(0)

    @rule()
    def kill(self) -> None:
        """What the kernel has of the files at this moment is what a kill leaves: all but levels in memory."""
        there = self._here.with_name(f"{int(self._here.name) + 1}")
        shutil.copytree(self._here, there)
        self.spool.close()
        self._here = there
        self.spool = self._opened()
        survivors = [one.seq for one in self.spool.oldest(PLENTY)]
        assert all(seq in survivors or self.kinds[seq] == "level" for seq, _, _ in self.waiting)
        self.waiting = [message for message in self.waiting if message[0] in survivors]
        self.dropped = self.spool.dropped  # a level that was to go first may have gone with the agent
        self.was_killed = True

    @rule(which=some.integers(0, 12), limit=some.integers(0, 20), but_not_to=some.sets(some.sampled_from(TOPICS)))
    def look(self, which: int, limit: int, but_not_to: set[str]) -> None:
        after = self.waiting[which][0] if which < len(self.waiting) else 0

        found = self.spool.oldest(limit, after=after, but_not_to=but_not_to)

        expected = [message for message in self.waiting if message[0] > after and message[1] not in but_not_to]
        assert [(one.seq, one.topic, one.payload) for one in found] == expected[:limit]

    @invariant()
    def they_agree(self) -> None:
        found = self.spool.oldest(PLENTY)
        assert [(one.seq, one.topic, one.payload) for one in found] == self.waiting
        assert (len(self.spool), self.spool.dropped) == (len(self.waiting), self.dropped)
        assert dict.fromkeys(one.event_id for one in self.spool.open_events()) == dict.fromkeys(self.open)
        assert {one.event_id: one.payload for one in self.spool.open_events()} == dict(self.open)

    def teardown(self) -> None:
        self.spool.close()
        self._folder.cleanup()

    def _opened(self) -> Spool:
        return Spool(self._here / "spool.sqlite", self.max_messages)

    def _keep(self, message: Message, kind: Kind) -> None:
        assert message[0] > self.seq if self.was_killed else message[0] == self.seq + 1
        self.seq, self.was_killed = message[0], False
        self.kinds[message[0]] = kind
        self.waiting.append(message)
        self._make_room(self.spool.unsaved)

    def _make_room(self, n_unsaved: int) -> None:
        """Room is made on the disk, and a level that is in memory takes none there yet."""
        while len(self.waiting) - n_unsaved > self.max_messages:
            least = min(self.waiting, key=lambda each: (KINDS.index(self.kinds[each[0]]), each[0]))
            self.waiting.remove(least)
            self.dropped += 1


SpoolBesideAList.TestCase.settings = settings(stateful_step_count=30)
TestSpoolBesideAList = SpoolBesideAList.TestCase
