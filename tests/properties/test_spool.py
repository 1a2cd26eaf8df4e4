"""The spool against a list in memory, over restarts."""

import tempfile
from collections import OrderedDict
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agent.spool import Spool

TOPICS = ("a", "b", "c")
EVENTS = ("one", "two", "three")


class SpoolBesideAList(RuleBasedStateMachine):
    """Whatever is done to the spool is done to a list; they must agree after each step."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="spool-")
        self.path = Path(self._folder.name) / "spool.sqlite"
        self.waiting: list[tuple[int, str, bytes]] = []
        self.open: OrderedDict[str, bytes] = OrderedDict()
        self.seq = self.dropped = 0

    @initialize(max_messages=some.integers(1, 12))
    def begin(self, max_messages: int) -> None:
        self.max_messages = max_messages
        self.spool = Spool(self.path, max_messages)

    @rule(topic=some.sampled_from(TOPICS), content=some.binary(max_size=200))
    def append(self, topic: str, content: bytes) -> None:
        self._keep(self.spool.append(topic, lambda _: content), topic, content)

    @rule(event=some.sampled_from(EVENTS), ends=some.booleans(), content=some.binary(max_size=20))
    def append_event(self, event: str, ends: bool, content: bytes) -> None:
        self._keep(self.spool.append("event", lambda _: content, event_id=event, ends=ends), "event", content)
        if ends:
            self.open.pop(event, None)
        else:
            self.open[event] = content

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

    @rule(numbers=some.lists(some.integers(0, 60), max_size=8))
    def forget(self, numbers: list[int]) -> None:
        self.spool.forget(numbers)
        self.waiting = [message for message in self.waiting if message[0] not in numbers]

    @rule()
    def restart(self) -> None:
        self.spool.close()
        self.spool = Spool(self.path, self.max_messages)

    @rule(after=some.integers(0, 60), limit=some.integers(0, 20), but_not_to=some.sets(some.sampled_from(TOPICS)))
    def look(self, after: int, limit: int, but_not_to: set[str]) -> None:
        found = self.spool.oldest(limit, after=after, but_not_to=but_not_to)

        expected = [message for message in self.waiting if message[0] > after and message[1] not in but_not_to]
        assert [(one.seq, one.topic, one.payload) for one in found] == expected[:limit]

    @invariant()
    def they_agree(self) -> None:
        found = self.spool.oldest(1000)
        assert [(one.seq, one.topic, one.payload) for one in found] == self.waiting
        assert (len(self.spool), self.spool.dropped) == (len(self.waiting), self.dropped)
        assert [(one.event_id, one.payload) for one in self.spool.open_events()] == list(self.open.items())

    def teardown(self) -> None:
        self.spool.close()
        self._folder.cleanup()

    def _keep(self, seq: int, topic: str, content: bytes) -> None:
        self.seq += 1
        assert seq == self.seq
        self.waiting.append((seq, topic, content))
        while len(self.waiting) > self.max_messages:
            del self.waiting[0]
            self.dropped += 1


SpoolBesideAList.TestCase.settings = settings(max_examples=30, stateful_step_count=30)
TestSpoolBesideAList = SpoolBesideAList.TestCase
