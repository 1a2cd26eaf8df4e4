"""Power cuts: what the spool promised is on the disk, whatever of the unsynced writes got there.

In: how many, a seed. Out: what became of each. A child uses a spool as the agent does, and strace records all it does
to the files, in order, with what it was told in between (`told`: an append has returned; `sent`: a message went to the
broker). A cut is an instant in that record: what was synced before it is on the disk; of each later write, by chance
all, nothing, or a torn part of some 512-byte sectors; in no order. Names of files are taken as kept in order, as by a
journaling file system. Then the spool is opened on that disk, and held against what had been told.

    python -m faults.powercut FOLDER SEED      the child
"""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.shelf import Kind
from agent.spool import Spool
from faults.children import CampaignError, program
from faults.street import NODE

SECTOR_BYTES = 512
APPENDS = 250
TOPIC = f"urbansound/{NODE}/street/event"
SPOOL_NAME = "spool.sqlite"

_CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) = (-?\d+)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


def main(arguments: Sequence[str]) -> int:
    """The child: use a spool for a while."""
    folder, seed = Path(arguments[0]), int(arguments[1])
    use(folder, random.Random(seed))
    return 0


def use(folder: Path, chance: random.Random) -> None:
    """Append events with their updates, send and forget them, as pipeline and publisher do; note all of it."""
    marks = os.open(folder / "marks", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def mark(what: str, seq: int, **more: object) -> None:
        os.write(marks, (json.dumps({"what": what, "seq": seq} | more) + "\n").encode())

    open_events: list[str] = []
    sent_until = 0
    with Spool(folder / SPOOL_NAME, 1_000_000) as spool:
        for number in range(APPENDS):
            kind: Kind = "event"
            ends = False
            if open_events and chance.random() < 0.7:
                event_id = chance.choice(open_events)
                ends = chance.random() < 0.4
                kind = "event" if ends else "update"
                if ends:
                    open_events.remove(event_id)
            else:
                event_id = f"event-{number}"
                open_events.append(event_id)
            told = {"event_id": event_id, "ends": ends, "rest": "x" * chance.randrange(300, 600)}
            content = json.dumps(told).encode()
            seq = spool.append(TOPIC, lambda _, content=content: content, kind=kind, event_id=event_id, ends=ends)  # type: ignore[misc]
            mark("told", seq, kind=kind, event_id=event_id, ends=ends)
            if chance.random() < 0.5:
                sent = spool.oldest(20, after=sent_until)
                for message in sent:
                    mark("sent", message.seq)
                sent_until = max([sent_until, *(message.seq for message in sent)])
                if chance.random() < 0.7:
                    acknowledged = [message.seq for message in sent if chance.random() < 0.9]
                    for done in acknowledged:
                        mark("forgotten", done)
                    spool.forget(acknowledged)


@dataclass(frozen=True)
class Call:
    """Something that was done to a file, or told.

    Attributes:
        kind: `write`, `sync`, `truncate`, `delete` or `mark`.
        file: its name.
        offset: of a write; the length of a truncation.
        data: of a write, or of a mark.
    """

    kind: str
    file: str
    offset: int = 0
    data: bytes = b""


def record(folder: Path, seed: int) -> list[Call]:
    """Let a child use a spool in this folder, and give all that it did.

    Raises:
        CampaignError: it failed.
        MissingError: strace is not installed.
    """
    trace = folder / "trace"
    done = subprocess.run(
        [
            *(program("strace"), "-f", "-y", "-xx", "-s", "1000000", "-o", trace),
            *("-e", "trace=pwrite64,write,fsync,fdatasync,ftruncate,unlink"),
            *(sys.executable, "-m", "faults.powercut", folder, str(seed)),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode != 0:
        raise CampaignError(f"the child failed: {done.stderr[-500:]}")
    with trace.open(encoding="ascii", errors="replace") as lines:
        return [call for line in lines if (call := _call(line)) is not None]


def _call(line: str) -> Call | None:
    match = _CALL.match(line)
    if match is None or int(match[3]) < 0:
        return None
    name, arguments = match[1], match[2]
    if name == "unlink":
        return Call("delete", _file(_bytes(_STRING.findall(arguments)[0]).decode()))
    descriptor = re.match(r"\d+<([^>]*)>", arguments)
    file = "" if descriptor is None else _file(_plain(descriptor[1]))
    if name in {"fsync", "fdatasync"}:
        return Call("sync", file)
    if name == "ftruncate":
        return Call("truncate", file, int(arguments.rsplit(",", 1)[1]))
    data = _bytes(_STRING.findall(arguments)[0])
    if name == "pwrite64":
        return Call("write", file, int(arguments.rsplit(",", 1)[1]), data)
    return Call("mark", file, data=data) if file == "marks" else None


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


def _plain(path: str) -> str:
    return _bytes(path).decode() if path.startswith("\\x") else path


def _file(path: str) -> str:
    return path.rsplit("/", 1)[-1]


@dataclass
class Disk:
    """Files as they are on the disk, and what was written to them since they were synced."""

    files: dict[str, bytearray] = field(default_factory=dict)
    waiting: dict[str, list[Call]] = field(default_factory=dict)

    def take(self, call: Call) -> None:
        """Do it."""
        if call.kind in {"write", "truncate"}:
            self.files.setdefault(call.file, bytearray())
            self.waiting.setdefault(call.file, []).append(call)
        elif call.kind == "sync":
            for earlier in self.waiting.pop(call.file, []):
                _apply(self.files[call.file], earlier)
        elif call.kind == "delete":
            self.files.pop(call.file, None)
            self.waiting.pop(call.file, None)

    def after_a_cut(self, chance: random.Random) -> dict[str, bytes]:
        """What a power cut leaves: all that was synced, and of the rest what chance wants."""
        left = {name: bytearray(content) for name, content in self.files.items()}
        for name, calls in self.waiting.items():
            how = chance.random()  # all of it, nothing, everything up to some write, or each by itself
            upto = chance.randrange(len(calls) + 1)
            for number, call in enumerate(calls):
                kept = number < upto if how < 0.4 else chance.random() < 0.5 if how < 0.9 else how < 0.95
                if kept:
                    _apply(left[name], call)
                elif call.kind == "write" and chance.random() < 0.3:
                    _apply(left[name], _torn(call, chance))
        return {name: bytes(content) for name, content in left.items()}


def _apply(content: bytearray, call: Call) -> None:
    if call.kind == "truncate":
        del content[call.offset :]
        content.extend(bytes(call.offset - len(content)))
    else:
        content.extend(bytes(max(0, call.offset - len(content))))
        content[call.offset : call.offset + len(call.data)] = call.data


def _torn(call: Call, chance: random.Random) -> Call:
    """A write of which some sectors, from its beginning or from somewhere within, got to the disk."""
    edges = [*range(0, len(call.data), SECTOR_BYTES), len(call.data)]
    begin, end = sorted((chance.choice(edges), chance.choice(edges)))
    begin = 0 if chance.random() < 0.5 else begin
    return Call("write", call.file, call.offset + begin, call.data[begin:end])


@dataclass
class Cut:
    """What became of one cut.

    Attributes:
        at: after which call.
        lost: messages that were promised and are gone, and events that are open and nobody knows of.
        duplicated: numbers that would be given a second time, to another message.
        problems: in words.
    """

    at: int
    lost: int = 0
    duplicated: int = 0
    problems: list[str] = field(default_factory=list)


def cut(calls: Sequence[Call], at: int, folder: Path, chance: random.Random) -> Cut:
    """Cut the power after so many calls, and see what the spool makes of what is left."""
    outcome = Cut(at)
    disk = Disk()
    marks: list[dict[str, object]] = []
    for call in calls[:at]:
        if call.kind == "mark":
            marks.append(json.loads(call.data))
        else:
            disk.take(call)
    folder.mkdir()
    for name, content in disk.after_a_cut(chance).items():
        (folder / name).write_bytes(content)
    promised, sent, open_events = _promises(marks)
    with Spool(folder / SPOOL_NAME, 1_000_000) as spool:
        waiting = spool.oldest(1_000_000)
        known = {event.event_id for event in spool.open_events()}
        next_seq = spool.append(TOPIC, lambda _: b"after the cut")
    there = {message.seq for message in waiting}
    # An end may be on the disk though its append had not returned.
    known |= {told["event_id"] for told in (json.loads(message.payload) for message in waiting) if told["ends"]}
    missing = sorted(promised - there)
    unknown = sorted(open_events - known)
    outcome.lost = len(missing) + len(unknown)
    if missing:
        outcome.problems.append(f"promised and gone: {missing[:5]}")
    if unknown:
        outcome.problems.append(f"open, and nobody knows of it: {unknown[:5]}")
    if sent and next_seq <= max(sent):
        outcome.duplicated = 1
        outcome.problems.append(f"the broker was told number {max(sent)}, and the next message has {next_seq}")
    aside = [file.name for file in folder.iterdir() if "aside" in file.name or "damaged" in file.name]
    if aside:
        outcome.problems.append(f"the file was set aside: {aside}")
    return outcome


def _promises(marks: Sequence[dict[str, object]]) -> tuple[set[int], set[int], set[str]]:
    """What must be there: messages whose append was durable, and all before them; what was sent; what is open."""
    durable_until = max((_seq(mark) for mark in marks if mark["what"] == "told" and mark["kind"] == "event"), default=0)
    promised = {_seq(mark) for mark in marks if mark["what"] == "told" and _seq(mark) <= durable_until}
    forgotten = {_seq(mark) for mark in marks if mark["what"] == "forgotten"}
    ended = {mark["event_id"] for mark in marks if mark["what"] == "told" and mark["ends"]}
    begun = {str(mark["event_id"]) for mark in marks if mark["what"] == "told"}
    return promised - forgotten, {_seq(mark) for mark in marks if mark["what"] == "sent"}, begun - ended


def _seq(mark: dict[str, object]) -> int:
    return int(str(mark["seq"]))


def cut_power(n_cuts: int, seed: int, folder: Path, say: Callable[[str], None]) -> Iterator[Cut]:
    """Cut the power so many times, at random instants of one record.

    Raises:
        MissingError: strace is not installed.
    """
    recorded = folder / "recorded"
    recorded.mkdir(parents=True)
    calls = record(recorded, seed)
    chance = random.Random(seed)
    for number in range(n_cuts):
        outcome = cut(calls, chance.randrange(1, len(calls) + 1), folder / f"cut{number}", chance)
        for problem in outcome.problems:
            say(f"power cut {number} (after call {outcome.at} of {len(calls)}): {problem}")
        yield outcome


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
