"""Promises of `demo`: one command shows the chain at work, says honestly what was recognised, and leaves nothing."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from agent.app import Judge
from agent.config import Config
from agent.errors import BrokerError
from agent.frontend import LogMel
from demo.__main__ import MissingError, chain_problem, demonstrate, find_mosquitto
from demo.picture import draw, listen
from demo.report import Heard, report
from demo.scene import GROUND_RMS_DB, SAMPLE_RATE_HZ, STREET, STREET_DURATION_S, Sounding, render
from tests.broker import wait_until
from tests.conftest import REPOSITORY

SIREN = Sounding("siren", onset_s=1.0, duration_s=2.0, level_db=-24.0)
BARK = Sounding("dog_bark", onset_s=4.0, duration_s=1.0, level_db=-22.0)
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
CHAIN_LIMIT_S = 240.0


@pytest.fixture
def mosquitto() -> Path:
    """The broker's program."""
    program = find_mosquitto(os.environ["PATH"])
    if program is None:
        pytest.skip("mosquitto is not installed (apt-get install mosquitto)")
    return program


def rms_db(samples: np.ndarray[tuple[int], np.dtype[np.float32]]) -> float:
    return float(10.0 * np.log10(np.mean(np.square(samples, dtype=np.float64))))


# The street


def test_the_street_is_the_same_each_time() -> None:
    """Who runs the demo twice hears the same street twice."""
    np.testing.assert_array_equal(render((SIREN,), 4.0), render((SIREN,), 4.0))


def test_every_sound_is_where_and_as_loud_as_it_says() -> None:
    """The truth that the report compares with is the truth: each sound at its time and level, else the ground alone."""
    street = render()

    assert street.dtype == np.float32
    assert len(street) == round(STREET_DURATION_S * SAMPLE_RATE_HZ)
    assert np.abs(street).max() < 1.0  # nothing is clipped
    is_ground = np.ones(len(street), bool)
    for sounding in STREET:
        span = slice(
            round(sounding.onset_s * SAMPLE_RATE_HZ),
            round((sounding.onset_s + sounding.duration_s) * SAMPLE_RATE_HZ),
        )
        assert rms_db(street[span]) == pytest.approx(sounding.level_db, abs=0.5)
        is_ground[span] = False
    assert rms_db(street[is_ground]) == pytest.approx(GROUND_RMS_DB, abs=1.0)


def test_the_street_holds_only_sounds_that_the_model_knows() -> None:
    """Each sound can be recognised: its label is one that the agent tells."""
    assert {sounding.label for sounding in STREET} <= set(Judge(Config()).rules)


# The report


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([Heard("siren", 1.2, 3.1, 0.9), Heard("dog_bark", 4.0, 5.0, 0.8)], "2 of 2 sounds recognised"),
        ([Heard("siren", 1.2, 1.9, 0.9), Heard("siren", 2.2, 3.1, 0.9)], "1 of 2 sounds recognised"),
        ([Heard("siren", 3.0, 3.5, 0.9)], "0 of 2 sounds recognised"),
        ([Heard("car_horn", 1.0, 3.0, 0.9)], "0 of 2 sounds recognised"),
        ([], "0 of 2 sounds recognised"),
    ],
    ids=["both", "twice the same", "after it was over", "another label", "nothing"],
)
def test_a_sound_counts_only_with_its_label_and_its_time(events: Sequence[Heard], expected: str) -> None:
    """A sound is recognised if an event with its label overlaps it, and is counted once."""
    assert any(line.startswith(expected) for line in report((SIREN, BARK), events))


def test_what_is_not_there_is_said() -> None:
    """False alarms are told as openly as successes."""
    lines = list(report((SIREN,), [Heard("siren", 1.0, 3.0, 0.9), Heard("drilling", 4.0, 5.5, 0.6)]))

    assert lines[-1] == "Heard where there is no such sound: drilling at 4.0 to 5.5 s."


@pytest.mark.parametrize(
    ("n_finished", "n_delivered", "expected"), [(3, 3, None), (0, 0, "no event"), (3, 2, "2 events came"), (3, 4, "4")]
)
def test_the_chain_works_only_if_all_that_was_found_is_delivered(
    n_finished: int, n_delivered: int, expected: str | None
) -> None:
    """What the agent found and what the broker delivered are the same number of events, and not none."""
    problem = chain_problem(n_finished=n_finished, n_delivered=n_delivered)

    assert problem is None if expected is None else problem is not None and expected in problem


# The picture


def test_the_picture_shows_what_the_network_is_given() -> None:
    """The spectrogram is made of the front end's frames, each once and in order."""
    judge = Judge(Config())
    numbers = judge.model.card.front_end
    samples = np.random.default_rng(1).uniform(-0.1, 0.1, 5 * numbers.sample_rate_hz).astype(np.float32)

    hearing = listen(samples, numbers.sample_rate_hz, judge)

    expected = LogMel(numbers).frames(samples)
    np.testing.assert_allclose(hearing.log_mel, expected[: len(hearing.log_mel)], atol=1e-3)
    assert len(expected) - len(hearing.log_mel) < 8  # less than one window hop is left at the end
    assert hearing.likelihoods.shape == hearing.times_s.shape == (len(hearing.times_s), len(judge.labels))
    assert hearing.times_s[-1].max() < hearing.duration_s


@pytest.mark.parametrize(
    "events",
    [
        [Heard("siren", 1.2, 3.1, 0.9), Heard("drilling", 4.0, 4.5, 0.5)],
        [Heard("air_conditioner", 1.2, 3.1, 0.9)],  # which the default model does not tell
        [],
    ],
)
def test_a_picture_is_written(tmp_path: Path, events: list[Heard]) -> None:
    """There is a PNG where it was asked for, its folder made, whatever was heard."""
    file = tmp_path / "build" / "demo.png"

    draw(file, render((SIREN,), 6.0), SAMPLE_RATE_HZ, (SIREN,), events)

    assert file.read_bytes().startswith(PNG_MAGIC)


# The chain


def start_demo(tmp_path: Path) -> subprocess.Popen[str]:
    """`python -m demo`, in an empty folder, with a temporary folder that its children can be known by."""
    return subprocess.Popen(
        [sys.executable, "-m", "demo"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes_of(tmp_path: Path) -> list[str]:
    """Processes that were started with this temporary folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"TMPDIR={tmp_path}\0".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it has just ended, or is not ours
            continue
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("mosquitto")
def test_the_demo_shows_events_that_came_from_a_broker(tmp_path: Path) -> None:
    """One command: events appear as a broker delivers them, a picture is written, and nothing stays behind."""
    with start_demo(tmp_path) as process:
        shown, errors = process.communicate(timeout=CHAIN_LIMIT_S)

    assert process.returncode == 0, errors
    lines = shown.splitlines()
    assert any(line.startswith("watching 127.0.0.1:") for line in lines)
    ends = [line for line in lines if line.startswith("demo/street  end ")]
    starts = [line for line in lines if line.startswith("demo/street  start ")]
    assert len(starts) == len(ends) > 0
    assert any(f" of {len(STREET)} sounds recognised" in line for line in lines)
    assert lines[-1] == f"Picture: {tmp_path / 'build' / 'demo.png'}"
    assert (tmp_path / "build" / "demo.png").read_bytes().startswith(PNG_MAGIC)
    assert processes_of(tmp_path) == []
    assert [file.name for file in tmp_path.iterdir()] == ["build"]


@pytest.mark.slow
@pytest.mark.usefixtures("mosquitto")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    """Whoever stops the demo half-way finds no broker and no temporary folder of it."""
    with start_demo(tmp_path) as process:
        assert process.stdout is not None
        assert any(line.startswith("watching") for line in process.stdout)
        process.send_signal(sent)
        process.communicate(timeout=60.0)

    assert process.returncode == code
    wait_until(lambda: processes_of(tmp_path) == [], "the children to be gone")
    assert list(tmp_path.iterdir()) == []


def test_without_a_broker_the_demo_says_what_to_install(tmp_path: Path) -> None:
    """A missing mosquitto is named, with the command that installs it."""
    with pytest.raises(MissingError, match="mosquitto is not installed; sudo apt-get install mosquitto") as caught:
        demonstrate(tmp_path / "demo.png", mosquitto=None)

    assert caught.value.exit_code == os.EX_UNAVAILABLE


def test_a_broker_that_does_not_start_is_named(tmp_path: Path) -> None:
    """A broker that ends at once is an error that says what it said, not a wait."""
    broken = tmp_path / "mosquitto"
    broken.write_text("#!/bin/sh\necho the disk is on fire >&2\nexit 3\n")
    broken.chmod(0o755)

    with pytest.raises(BrokerError, match=r"mosquitto ended with 3: the disk is on fire"):
        demonstrate(tmp_path / "demo.png", mosquitto=broken, soundings=(), duration_s=1.0)


def test_a_broker_is_found_where_debian_puts_it() -> None:
    """Without root, /usr/sbin is not in the PATH; mosquitto is found there all the same."""
    program = Path("/usr/sbin/mosquitto")
    if not program.exists():
        pytest.skip("mosquitto is not installed in /usr/sbin")

    assert find_mosquitto("/nowhere") == program


# The make target


def test_a_half_made_environment_is_made_again(tmp_path: Path) -> None:
    """Without python3-venv, `venv` fails after it has made a python without pip, which is no environment."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed (apt-get install make)")
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    for script, text in (
        ("tools/system-packages.sh", "exit 0"),
        ("python", 'mkdir -p "$3/bin"; : >"$3/bin/python"; exit 1'),
    ):
        file = tmp_path / script
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        file.chmod(0o755)

    command = ["make", "PYTHON=./python", ".venv/bin/python"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert made.returncode != 0
    assert not (tmp_path / ".venv/bin/python").exists()
