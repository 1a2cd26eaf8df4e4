"""Promises of `systemd/`: the unit is valid, sandboxed, and agrees with the agent about names, codes and times."""

import re
import shutil
import signal
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from agent.app import DRAIN_S
from agent.broker import CREDENTIAL_NAME
from agent.capture import CLOSE_DEADLINE_S
from agent.cli import _parser
from agent.config import Config
from agent.errors import ConfigError, ModelError
from agent.sensor import FINISH_S
from tests.conftest import REPOSITORY

UNIT = REPOSITORY / "systemd" / "urbansound.service"
PASSWORD_DROP_IN = REPOSITORY / "systemd" / "mqtt-password.conf"
MAX_EXPOSURE = 20  # tenths; a unit without any sandbox has 96

Settings = dict[str, list[str]]


def settings_of(file: Path) -> Settings:
    """Every setting of a unit file, with its values in order."""
    settings: Settings = defaultdict(list)
    for line in file.read_text(encoding="utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            settings[name].append(value)
    return settings


@pytest.fixture
def unit() -> Settings:
    return settings_of(UNIT)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit with its drop-in, as installed, but for the program: `systemd-analyze` wants that to exist."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (apt-get install systemd)")
    file = tmp_path / UNIT.name
    text = UNIT.read_text(encoding="utf-8")
    file.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", text), encoding="utf-8")
    drop_ins = tmp_path / f"{UNIT.name}.d"
    drop_ins.mkdir()
    shutil.copy(PASSWORD_DROP_IN, drop_ins)
    return file


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


def test_systemd_takes_the_unit(installed: Path) -> None:
    """No unknown key and no bad value, in the unit and in its drop-in."""
    verified = analyze("verify", "--man=no", installed)

    assert (verified.returncode, verified.stderr) == (0, "")


def test_the_unit_is_sandboxed(installed: Path) -> None:
    """The judgement of systemd about what an intruder could do through the agent stays at `OK`."""
    judged = analyze("security", "--offline=yes", f"--threshold={MAX_EXPOSURE}", "--no-pager", installed)

    assert judged.returncode == 0, judged.stdout


def test_the_unit_starts_a_command_that_the_agent_has(unit: Settings) -> None:
    """The command line of the unit is one that the agent understands, with the configuration in its folder."""
    (command,) = unit["ExecStart"]
    program, *arguments = command.split()

    options = _parser().parse_args(arguments)

    assert Path(program).name == "urbansound"
    assert options.config == Path("/etc") / unit["ConfigurationDirectory"][0] / "agent.toml"


def test_the_outbox_is_in_the_state_folder(unit: Settings) -> None:
    """Without configuration, the agent spools where the unit lets it write."""
    assert Config().spool.path.parent == Path("/var/lib") / unit["StateDirectory"][0]


def test_only_what_a_restart_cannot_help_stays_down(unit: Settings) -> None:
    """The agent is started again and again, but not with a wrong configuration or model."""
    assert unit["Restart"] == ["always"]
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert unit["RestartPreventExitStatus"] == [str(ConfigError.exit_code)] == [str(ModelError.exit_code)]


def test_a_stop_is_a_success(unit: Settings) -> None:
    """`systemctl stop` leaves no failed unit behind, and gives the agent the time it takes for an orderly end."""
    assert unit["SuccessExitStatus"] == [str(128 + signal.SIGTERM)]
    assert float(unit["TimeoutStopSec"][0]) > CLOSE_DEADLINE_S + FINISH_S + DRAIN_S + 3.0  # and a goodbye


def test_systemd_waits_for_the_microphone_and_then_watches(unit: Settings) -> None:
    """READY may take as long as the microphone does; from then on a silent agent is started anew."""
    assert unit["Type"] == ["notify"]
    assert unit["NotifyAccess"] == ["main"]
    assert unit["TimeoutStartSec"] == ["infinity"]
    assert unit["WatchdogSec"] == ["30"]


def test_the_sensor_starts_without_a_network(unit: Settings) -> None:
    """It hears without a broker and without a time server; neither is waited for."""
    text = " ".join(value for name in ("After", "Wants", "Requires", "BindsTo") for value in unit[name])

    assert "network" not in text
    assert "time" not in text


def test_no_sound_reaches_the_disk(unit: Settings) -> None:
    """A crash writes no core dump, and memory is not swapped out: both would hold sound."""
    assert unit["LimitCORE"] == ["0"]
    assert unit["MemorySwapMax"] == ["0"]


def test_the_password_has_the_name_that_the_agent_looks_for() -> None:
    """The credential of the drop-in is the one that the agent reads."""
    (credential,) = settings_of(PASSWORD_DROP_IN)["LoadCredential"]

    assert credential.partition(":")[0] == CREDENTIAL_NAME
