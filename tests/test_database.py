"""Promises of `agent.database`: what was committed is there again, whatever happened to agent, power or card."""

import logging
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.database import KEPT_ASIDE, Database, Layout, read_rows
from agent.errors import DatabaseError
from tests.broker import DEADLINE_S

LAYOUT = Layout(
    name="ledger",
    application_id=0x74657374,
    version=1,
    schema="""
CREATE TABLE hours (hour INTEGER PRIMARY KEY, note TEXT NOT NULL) STRICT;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
INSERT INTO counters VALUES ('seen', 0);
""",
)
PAGE_BYTES = 4096
FILE_SIZE_LIMIT_BYTES = 400_000


def note(hour: int) -> str:
    return f"hour {hour} " + "x" * 200


def put(database: Database, *hours: int, durable: bool = True) -> None:
    with database.transaction(durable=durable):
        database.change_each("INSERT INTO hours VALUES (?, ?)", [(hour, note(hour)) for hour in hours])


def hours_in(database: Database) -> list[int]:
    return [hour for (hour,) in database.rows("SELECT hour FROM hours ORDER BY hour")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    opened = Database(path, LAYOUT)
    yield opened
    opened.close()


def test_what_is_committed_is_there_after_a_restart(path: Path) -> None:
    """Rows and counters are found again as they were left."""
    database = Database(path, LAYOUT)
    put(database, 1, 2, 3)
    with database.transaction(durable=False):
        assert database.change("UPDATE counters SET value = value + 3 WHERE name = ?", ["seen"]) == 1
        assert database.change_each("DELETE FROM hours WHERE hour = ?", [(2,), (99,)]) == 1
    database.close()

    database = Database(path, LAYOUT)

    assert database.rows("SELECT hour, note FROM hours") == [(1, note(1)), (3, note(3))]
    assert database.rows("SELECT value FROM counters") == [(3,)]
    database.close()


def test_a_transaction_that_fails_leaves_no_trace(database: Database) -> None:
    """All of it or nothing, and the next one works."""
    with pytest.raises(ZeroDivisionError), database.transaction():  # noqa: PT012  it is what fails
        database.change("INSERT INTO hours VALUES (1, 'half')")
        raise ZeroDivisionError

    put(database, 2)

    assert hours_in(database) == [2]


def syncs_between_marks(script: str, path: Path) -> list[int]:
    """Run a script on a file, and count by strace what it syncs from each `mark` that it prints to the next."""
    if (strace := shutil.which("strace")) is None:
        pytest.skip("strace is not installed (apt-get install strace)")
    traced = subprocess.run(
        [strace, "-e", "trace=fsync,fdatasync,write", sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    return [part.count("sync(") for part in traced.stderr.split('write(1, "mark')[1:-1]]


def test_a_durable_transaction_is_synced_and_another_is_not(path: Path) -> None:
    """One fsync for a durable transaction, none for the others: a card wears out by its syncs."""
    script = (
        "import sys; from pathlib import Path; from tests.test_database import LAYOUT, put; "
        "from agent.database import Database\n"
        "database = Database(Path(sys.argv[1]), LAYOUT); put(database, 0)\n"
        "print('mark', flush=True)\n"
        "for hour in range(1, 51): put(database, hour, durable=False)\n"
        "print('mark', flush=True)\n"
        "for hour in range(51, 61): put(database, hour)\n"
        "print('mark', flush=True)\n"
    )

    assert syncs_between_marks(script, path) == [0, 10]


HOLDS_UNTIL_KILLED = """
import sys
from pathlib import Path
from agent.database import Database
from tests.test_database import LAYOUT
database = Database(Path(sys.argv[1]), LAYOUT)
print("open", flush=True)
sys.stdin.read()
"""


def test_two_agents_cannot_share_a_file(path: Path) -> None:
    """A second agent is told that the file is in use; when the first is killed, it is free at once."""
    first = subprocess.Popen(
        [sys.executable, "-c", HOLDS_UNTIL_KILLED, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "open\n"

    with pytest.raises(DatabaseError, match=f"ledger {path}: is in use by another agent, expected one agent a ledger"):
        Database(path, LAYOUT)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=DEADLINE_S)

    Database(path, LAYOUT).close()


def test_one_process_cannot_open_a_file_twice(database: Database, path: Path) -> None:
    """Nor does the lock forget that it is ours."""
    with pytest.raises(DatabaseError, match="in use by another agent"):
        Database(path, LAYOUT)

    put(database, 1)
    assert hours_in(database) == [1]


def test_a_folder_that_is_missing_is_made(tmp_path: Path) -> None:
    """The first start on a new node needs no preparation."""
    Database(tmp_path / "new" / "deep" / "ledger.sqlite", LAYOUT).close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """The error names the file and says why, and the exit code is that of input and output."""
    (tmp_path / "file").write_text("not a folder")
    path = tmp_path / "file" / "ledger.sqlite"

    with pytest.raises(DatabaseError, match=f"ledger {path}: cannot be used \\(.+\\)") as caught:
        Database(path, LAYOUT)

    assert caught.value.exit_code == 74


def test_a_folder_in_place_of_the_file_is_named(path: Path) -> None:
    """So is a folder that stands where the file should be."""
    path.mkdir()

    with pytest.raises(DatabaseError, match=f"ledger {path}: cannot be used \\(unable to open database file\\)"):
        Database(path, LAYOUT)


def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    """A path that points at somebody's data by mistake does no harm to it."""
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE photos (name TEXT)")
    other.close()
    before = path.read_bytes()

    with pytest.raises(DatabaseError, match="another program's database, expected a ledger or no file"):
        Database(path, LAYOUT)

    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"hello" * 1000, b"SQLite format 3\0" + b"\xff" * 5000, b"\0" * 8192])
def test_a_file_that_is_no_database_is_set_aside(path: Path, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    """A file of rubbish does not stop the agent: it is kept under another name, and the log says so."""
    path.write_bytes(content)

    database = Database(path, LAYOUT)

    put(database, 1)
    assert hours_in(database) == [1]
    assert path.with_name("ledger.sqlite.aside-1").read_bytes() == content
    assert f"ledger.damaged file={path}" in caplog.text
    assert f"ledger.set_aside file={path}.aside-1 rows_taken_over=0" in caplog.text
    database.close()


def test_an_empty_file_is_a_new_one(path: Path) -> None:
    """A power cut at the very first start leaves no bytes at all; there is nothing to set aside."""
    path.write_bytes(b"")

    Database(path, LAYOUT).close()

    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("version", [0, 2, 99])
def test_a_file_of_another_version_is_set_aside_with_its_rows_taken_over(path: Path, version: int) -> None:
    """After an update, or the way back from one, the agent goes on with what both know."""
    other = Database(
        path,
        replace(
            LAYOUT,
            version=version,
            schema="CREATE TABLE hours (hour INTEGER PRIMARY KEY, note TEXT NOT NULL, added TEXT) STRICT",
        ),
    )
    with other.transaction():
        other.change("INSERT INTO hours VALUES (7, 'seven', 'new')")
    other.close()

    database = Database(path, LAYOUT)

    assert database.rows("SELECT hour, note FROM hours") == [(7, "seven")]
    assert database.rows("SELECT name, value FROM counters") == [("seen", 0)]
    database.close()


def test_of_a_file_with_a_ruined_page_the_rest_is_taken_over(path: Path) -> None:
    """A bad block in the middle costs the rows in it; those before and behind it go on."""
    database = Database(path, LAYOUT)
    put(database, *range(1000))
    database.close()
    content = bytearray(path.read_bytes())
    middle = len(content) // PAGE_BYTES // 2 * PAGE_BYTES
    content[middle : middle + PAGE_BYTES] = random.Random(1).randbytes(PAGE_BYTES)
    path.write_bytes(content)

    database = Database(path, LAYOUT)

    left = hours_in(database)
    assert 900 < len(left) < 1000
    assert left[0] == 0
    assert left[-1] == 999
    database.close()


@pytest.mark.parametrize("seed", range(40))
def test_no_damage_is_fatal_and_no_row_is_false(path: Path, seed: int) -> None:
    """Bytes flipped, pages swapped or zeroed, a file or its log cut short: it opens, and what it holds was once put in.

    The notes may be damaged where no check can tell; that there is a row, and which, may not.
    """
    dice = random.Random(seed)
    database = Database(path, LAYOUT)
    for begin in range(0, 400, 40):
        put(database, *range(begin, begin + 40), durable=dice.random() < 0.5)
    log_file = path.with_name(f"{path.name}-wal")
    images = {path: bytearray(path.read_bytes()), log_file: bytearray(log_file.read_bytes())}
    database.close()
    for _ in range(dice.randint(1, 4)):
        image = images[dice.choice([path, log_file])]
        if not image:
            continue
        at = dice.randrange(len(image))
        page = at // PAGE_BYTES * PAGE_BYTES
        how = dice.choice(["flip", "zero", "scramble", "cut"])
        if how == "flip":
            image[at] ^= 1 << dice.randrange(8)
        elif how == "zero":
            image[page : page + PAGE_BYTES] = bytes(len(image[page : page + PAGE_BYTES]))
        elif how == "scramble":
            image[page : page + PAGE_BYTES] = dice.randbytes(len(image[page : page + PAGE_BYTES]))
        else:
            del image[at:]
    for file, image in images.items():
        file.write_bytes(image)

    database = Database(path, LAYOUT)

    assert set(hours_in(database)) <= set(range(400))
    put(database, 1000)
    database.close()
    database = Database(path, LAYOUT)
    assert 1000 in hours_in(database)
    database.close()


def test_damage_that_is_found_at_work_is_left_behind(database: Database, path: Path) -> None:
    """Its owner may begin anew at any time: what can be read goes on, in a fresh file."""
    put(database, 1, 2, 3)

    database.begin_anew("the test says so")

    put(database, 4)
    assert hours_in(database) == [1, 2, 3, 4]
    assert path.with_name("ledger.sqlite.aside-1").exists()


def test_taking_over_is_done_again_after_a_crash_in_its_middle(path: Path) -> None:
    """Killed between setting aside and taking over, the next start takes over."""
    database = Database(path, LAYOUT)
    put(database, 1, 2)
    database.close()
    path.rename(path.with_name("ledger.sqlite.damaged"))
    database = Database(path.with_name("half.sqlite"), LAYOUT)  # the fresh file had some rows already
    put(database, 2, 3)
    database.close()
    path.with_name("half.sqlite").rename(path)

    database = Database(path, LAYOUT)

    assert hours_in(database) == [1, 2, 3]
    assert not path.with_name("ledger.sqlite.damaged").exists()
    database.close()


def test_files_that_were_set_aside_are_not_hoarded(path: Path) -> None:
    """A card that breaks each day does not fill itself with its ruins: the newest few are kept."""
    for number in range(1, 7):
        path.write_bytes(b"ruin %d" % number * 100)
        Database(path, LAYOUT).close()

    aside = sorted(file.name for file in path.parent.iterdir() if ".aside-" in file.name)
    assert aside == [f"ledger.sqlite.aside-{number}" for number in range(7 - KEPT_ASIDE, 7)]
    assert path.with_name(aside[-1]).read_bytes().startswith(b"ruin 6")


FILLS_THE_DISK = """
import resource, signal, sys
from pathlib import Path
from agent.database import Database
from agent.errors import DatabaseUnwritableError
from tests.test_database import LAYOUT, hours_in, put
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
database = Database(Path(sys.argv[1]), LAYOUT)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), limits[1]))
hour = 0
try:
    while True:
        put(database, hour)
        hour += 1
except DatabaseUnwritableError as error:
    print(error)
assert hours_in(database) == list(range(hour))
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
put(database, hour)
assert hours_in(database) == list(range(hour + 1))
print(hour)
"""


def test_a_disk_that_takes_no_more_is_said_and_works_again_when_it_does(path: Path) -> None:
    """A write that fails is said with the file and the reason, changes nothing, and is possible again with room."""
    child = subprocess.run(
        [sys.executable, "-c", FILLS_THE_DISK, str(path), str(FILE_SIZE_LIMIT_BYTES)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    error, hours = child.stdout.splitlines()

    assert error.startswith(f"ledger {path}: cannot be used (")
    assert int(hours) > 20
    database = Database(path, LAYOUT)
    assert hours_in(database) == list(range(int(hours) + 1))
    database.close()


OPENS_ON_A_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from agent.database import Database
from agent.errors import DatabaseUnwritableError
from tests.test_database import LAYOUT
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
try:
    Database(Path(sys.argv[1]), LAYOUT)
except DatabaseUnwritableError:
    print("waits")
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
Database(Path(sys.argv[1]), LAYOUT).close()
print("opens")
"""


def test_a_disk_that_is_full_at_the_start_is_told_from_a_wrong_path(path: Path) -> None:
    """Who opens can wait for room; a path that can never work is another error."""
    child = subprocess.run(
        [sys.executable, "-c", OPENS_ON_A_FULL_DISK, str(path)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )

    assert child.stdout.split() == ["waits", "opens"]


OPENS_WITHOUT_ROOM_FOR_A_FILE = """
import subprocess, sys
from contextlib import suppress
from pathlib import Path
from agent.database import Database
from agent.errors import DatabaseUnwritableError
from tests.test_database import LAYOUT, hours_in, put
folder, trouble = Path(sys.argv[1]), sys.argv[2]
subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=20", "tmpfs", folder], check=True)
path = folder / "ledger.sqlite"
if trouble == "no inode":
    database = Database(path, LAYOUT)
    put(database, 1)
    database.close()
    with suppress(OSError):
        for number in range(100):
            (folder / f"other {number}").touch()
else:
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
try:
    Database(path, LAYOUT)
except DatabaseUnwritableError as error:
    print(error)
subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
for file in folder.glob("other*"):
    file.unlink()
database = Database(path, LAYOUT)
put(database, 2)
print(hours_in(database))
"""


@pytest.mark.parametrize(
    ("trouble", "said", "hours"),
    [("no inode", "No space left on device", [1, 2]), ("read-only", "Read-only file system", [2])],
)
def test_a_disk_where_no_file_can_be_made_is_waited_for(
    tmp_path: Path, trouble: str, said: str, hours: list[int]
) -> None:
    """SQLite says of both only that it cannot open; what is beside the file tells them from a wrong path."""
    own = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*own, "true"], capture_output=True, check=False).returncode:
        pytest.skip("expected to be allowed a mount namespace")
    child = subprocess.run(
        [*own, sys.executable, "-c", OPENS_WITHOUT_ROOM_FOR_A_FILE, str(tmp_path), trouble],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )

    path = tmp_path / "ledger.sqlite"
    expected = f"ledger {path}: cannot be used ({said}), expected a file in a folder where the agent can write"
    assert child.stdout.splitlines() == [expected, str(hours)]


def test_files_are_not_left_open(path: Path) -> None:
    """What is closed, or could not be opened, keeps no descriptor."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        Database(path, LAYOUT).close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA application_id = 1")
        other.execute("DROP TABLE hours")
        other.execute("DROP TABLE counters")
        other.execute("CREATE TABLE photos (name TEXT)")
    other.close()
    for _ in range(3):
        with pytest.raises(DatabaseError):
            Database(path, LAYOUT)

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_damaged_file_leaves_no_descriptor_open(path: Path) -> None:
    """Nor does taking over."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        path.write_bytes(b"not a database" * 100)
        Database(path, LAYOUT).close()

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_log_says_what_was_taken_over(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A person reads which file, why, and how much of it goes on."""
    database = Database(path, LAYOUT)
    put(database, 1, 2)
    with caplog.at_level(logging.WARNING):
        database.begin_anew("a reason")
    database.close()

    assert f"ledger.damaged file={path} reason=a reason" in caplog.text
    assert f"ledger.set_aside file={path}.aside-1 rows_taken_over=3" in caplog.text  # two hours and the counter


def test_damaged_bytes_in_an_error_of_sqlite_are_damage(path: Path) -> None:
    """SQLite quotes a schema that it cannot read, and Python cannot decode the quotation: the file is set aside."""
    database = Database(path, LAYOUT)
    put(database, 1)
    database.close()
    raw = path.read_bytes()
    at = raw.index(b"CREATE TABLE hours")
    path.write_bytes(raw[:at] + b"CREATE \x82ABLE hours" + raw[at + 18 :])

    database = Database(path, LAYOUT)

    assert hours_in(database) == []
    assert path.with_name(f"{path.name}.aside-1").is_file()
    database.close()


def test_a_text_that_is_none_any_more_is_read_all_the_same(database: Database) -> None:
    """A bit that flipped inside a text passes SQLite's check: the row is read, and its owner judges it."""
    with database.transaction():
        database.change("INSERT INTO hours VALUES (1, CAST(x'66ff6f' AS TEXT))")

    assert database.rows("SELECT note FROM hours") == [("f\ufffdo",)]


def test_a_shared_file_can_be_read_while_it_is_written(path: Path) -> None:
    """A reader sees what is committed, changes nothing, and leaves nothing beside the file."""
    shared = replace(LAYOUT, shared=True)
    database = Database(path, shared)
    put(database, 1)

    with database.transaction():
        database.change("INSERT INTO hours VALUES (2, 'not yet')")
        assert read_rows(path, shared, "SELECT hour FROM hours") == [(1,)]
    assert read_rows(path, shared, "SELECT hour FROM hours") == [(1,), (2,)]

    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with pytest.raises(DatabaseError, match="readonly"):
        read_rows(path, shared, "DELETE FROM hours")
    database.close()


def test_only_the_right_file_is_read(path: Path) -> None:
    """A file that is not there is not made, and one of another version is not guessed at."""
    with pytest.raises(DatabaseError, match="cannot be read"):
        read_rows(path, LAYOUT, "SELECT hour FROM hours")
    assert not path.exists()
    Database(path, replace(LAYOUT, shared=True)).close()

    with pytest.raises(DatabaseError, match="expected a file of version 2 of this agent"):
        read_rows(path, replace(LAYOUT, version=2), "SELECT hour FROM hours")
