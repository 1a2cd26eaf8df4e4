"""What was heard hour by hour is on the disk for 90 days, and the disk is never a reason to hear less."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.coverage import HOUR_NS, SECOND_NS, Tally
from agent.errors import DatabaseError
from agent.hours import KEPT_HOURS, Hours, LastHeard, read_hours

HOUR = 490_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "coverage.sqlite"


@pytest.fixture
def hours(path: Path) -> Iterator[Hours]:
    opened = Hours(path)
    yield opened
    opened.close()


def test_hours_add_up_over_restarts(hours: Hours, path: Path) -> None:
    """What one run heard of an hour, and what the next one heard, are one hour in the file."""
    assert hours.keep(
        {HOUR: Tally(heard=10, silent=1, clipped=2, lost=3)},
        LastHeard(5 * SECOND_NS, "7f3a", True, None, 2 * SECOND_NS),
    )
    assert hours.keep({HOUR: Tally(heard=10), HOUR + 1: Tally(lost=7)}, None)
    hours.close()

    again = Hours(path)

    assert again.known() == {HOUR: Tally(20, 1, 2, 3), HOUR + 1: Tally(lost=7)}
    assert again.last_heard() == LastHeard(5 * SECOND_NS, "7f3a", True, None, 2 * SECOND_NS)
    again.close()


def test_a_new_sensor_knows_nothing(hours: Hours) -> None:
    """Before the first run there are no hours, and no time at which one ended."""
    assert hours.known() == {}
    assert hours.last_heard() is None


def test_why_it_was_deaf_is_kept_and_forgotten(hours: Hours) -> None:
    """The next start is told why the last run was deaf in the end, if it was."""
    hours.keep({}, LastHeard(7, "boot", True, "device"))
    assert hours.last_heard() == LastHeard(7, "boot", True, "device")

    hours.keep({}, LastHeard(8, "boot", True, None))
    assert hours.last_heard() == LastHeard(8, "boot", True, None)


def test_ninety_days_are_kept(hours: Hours) -> None:
    """The file does not grow for ever; one hour of a clock that was far ahead forgets nothing else."""
    hours.keep({HOUR + i: Tally(heard=1) for i in range(KEPT_HOURS)}, None)
    hours.keep({HOUR * 2: Tally(heard=1)}, None)

    assert sorted(hours.known()) == [*range(HOUR + 1, HOUR + KEPT_HOURS), HOUR * 2]


def test_days_of_a_clock_that_was_ahead_do_not_push_out_true_hours(hours: Hours) -> None:
    """After three months that were dated years too late, what is heard now is kept, and they go one by one."""
    future = [HOUR * 2 + i for i in range(KEPT_HOURS)]
    hours.keep({hour: Tally(heard=1) for hour in future}, None)
    for i in range(10):
        hours.keep({HOUR + i: Tally(heard=1)}, None)
    hours.keep({}, LastHeard(0, "boot", True, None))

    assert sorted(hours.known()) == [*range(HOUR, HOUR + 10), *future[:-10]]


def test_the_file_can_be_read_while_the_sensor_writes(hours: Hours, path: Path) -> None:
    """`urbansound coverage` needs no stop of the sensor, and leaves nothing beside the file."""
    for i in range(5):
        hours.keep({HOUR: Tally(heard=HOUR_NS // 10)}, LastHeard(i, "boot", True, None))

        assert read_hours(path) == {HOUR: Tally(heard=(i + 1) * HOUR_NS // 10)}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_reader_keeps_the_sensor_from_nothing(hours: Hours, path: Path) -> None:
    """A reader that does not let go delays what is kept, and it is kept the next time."""
    hours.keep({HOUR: Tally(heard=1)}, None)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM hours").fetchall()

    assert not hours.keep({HOUR: Tally(heard=10)}, None)
    reader.close()

    assert hours.keep({HOUR: Tally(heard=100)}, None)
    assert hours.known() == {HOUR: Tally(heard=111)}


def test_a_file_that_cannot_be_written_is_said_once_and_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While the disk is out of order the sensor goes on; when it is back, nothing is missing; and so the next time."""
    caplog.set_level(logging.INFO)
    blocked = tmp_path / "state"
    blocked.write_text("a file where the folder should be")
    hours = Hours(blocked / "coverage.sqlite")
    assert hours.known() == {}
    assert not hours.keep({HOUR: Tally(heard=1)}, None)
    assert not hours.keep({HOUR: Tally(heard=2)}, None)
    blocked.unlink()

    assert hours.keep({HOUR: Tally(heard=4)}, None)

    assert hours.known() == {HOUR: Tally(heard=7)}
    hours.close()
    blocked.rename(tmp_path / "away")
    blocked.write_text("a file where the folder should be")
    assert not hours.keep({HOUR: Tally(heard=8)}, None)

    said = [message.partition(" ")[0] for message in caplog.messages]
    assert said == ["coverage.unkept", "coverage.kept", "coverage.unkept"]


def test_a_damaged_file_is_set_aside(path: Path) -> None:
    """A file that the card has spoiled does not keep the sensor from accounting for its time."""
    path.parent.mkdir()
    path.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    hours = Hours(path)

    assert hours.known() == {}
    assert hours.keep({HOUR: Tally(heard=1)}, None)

    assert hours.known() == {HOUR: Tally(heard=1)}
    hours.close()


def test_what_a_file_that_is_damaged_meanwhile_does_not_take_the_next_one_does(hours: Hours, path: Path) -> None:
    """The card may spoil the file under the running sensor: what was heard since is in the one that it begins then."""
    hours.keep({HOUR: Tally(heard=1)}, None)
    path.write_bytes(b"SQLite format 3\0" + b"x" * (path.stat().st_size - 16))

    assert hours.keep({HOUR + 1: Tally(heard=2)}, LastHeard(7, "boot", True, None))

    assert hours.known()[HOUR + 1] == Tally(heard=2)
    assert hours.last_heard() == LastHeard(7, "boot", True, None)


def test_a_file_that_is_not_there_is_an_error_for_the_reader(path: Path) -> None:
    """Who asks for the coverage of no sensor is told which file was expected."""
    with pytest.raises(DatabaseError, match=r"coverage\.sqlite: cannot be read"):
        read_hours(path)

    assert not path.exists()


def test_another_programs_file_is_an_error_for_the_reader(tmp_path: Path) -> None:
    """The spool is not taken for the hours."""
    other = tmp_path / "spool.sqlite"
    sqlite3.connect(other).execute("CREATE TABLE outbox (seq)").connection.close()

    with pytest.raises(DatabaseError, match="expected a file of version 1"):
        read_hours(other)


@pytest.mark.parametrize("damaged", ["17672652\ufffd0", "-5", "9" * 40, ""])
def test_an_end_of_a_run_that_nobody_can_read_is_none(hours: Hours, path: Path, damaged: str) -> None:
    """A bit that flipped in the mark does not keep the sensor from starting: it begins as a new one does."""
    hours.keep({}, LastHeard(7, "boot", True, None))
    hours.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE marks SET value = ? WHERE name = 'heard_until_ns'", (damaged,))

    assert hours.last_heard() is None


@pytest.mark.parametrize("kind", ["heard_ns", "lost_ns"])
def test_an_hour_that_a_bad_card_has_changed_is_left_out(hours: Hours, path: Path, kind: str) -> None:
    """It says less than nothing; the others are there."""
    hours.keep({HOUR: Tally(heard=10), HOUR + 1: Tally(heard=20)}, None)
    hours.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"UPDATE hours SET {kind} = -1 WHERE hour = ?", (HOUR,))

    assert read_hours(path) == hours.known() == {HOUR + 1: Tally(heard=20)}


@pytest.mark.parametrize("became", [b"\x06\0\x07\x06\x06\x06", b"\x06\0\x06\x06\x06\x07"], ids=["heard", "lost"])
def test_an_hour_that_is_no_number_any_more_is_left_out(hours: Hours, path: Path, became: bytes) -> None:
    """A bit in the head of a row makes a fraction of a count: SQLite reads it, though the table has only integers."""
    large = 1 << 56  # eight bytes each, of which the head says: 6, a whole number; 7 is a fraction
    hours.keep({HOUR: Tally(large, large, large, large), HOUR + 1: Tally(heard=20)}, None)
    hours.close()
    raw = path.read_bytes()
    assert raw.count(b"\x06\0\x06\x06\x06\x06") == 1
    path.write_bytes(raw.replace(b"\x06\0\x06\x06\x06\x06", became))

    assert read_hours(path) == hours.known() == {HOUR + 1: Tally(heard=20)}


def test_a_schema_that_nobody_can_read_is_told(hours: Hours, path: Path) -> None:
    """SQLite quotes the damaged bytes, which are no text: an error with the file's name, not a crash."""
    hours.keep({HOUR: Tally(heard=10)}, None)
    hours.close()
    raw = path.read_bytes()
    at = raw.index(b"CREATE TABLE hours")
    path.write_bytes(raw[:at] + b"CREATE \xffABLE hours" + raw[at + 18 :])

    with pytest.raises(DatabaseError, match=str(path)):
        read_hours(path)
