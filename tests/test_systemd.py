"""Promises of `systemd/`: the units are valid, sandboxed, and agree with the agent about names, codes and times."""

import re
import shutil
import signal
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from agent.arguments import argument_parser
from agent.capture import CLOSE_DEADLINE_S
from agent.config import load_config
from agent.credentials import CREDENTIAL_NAME
from agent.errors import ConfigError, ModelError
from agent.outbox import DRAIN_S
from agent.sensor import FINISH_S
from tests.conftest import REPOSITORY

UNIT = REPOSITORY / "systemd" / "urbansound.service"
TEMPLATE = REPOSITORY / "systemd" / "urbansound@.service"
NOTIFY_RELOAD = REPOSITORY / "systemd" / "notify-reload.conf"
MAX_EXPOSURE = 15  # tenths; a unit without any sandbox has 96

Settings = dict[str, list[str]]


def settings_of(file: Path) -> Settings:
    """Every setting of a unit file, with its values in order."""
    settings: Settings = defaultdict(list)
    for line in file.read_text(encoding="utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            settings[name].append(value)
    return settings


@pytest.fixture(params=[UNIT, TEMPLATE], ids=lambda file: file.name)
def unit(request: pytest.FixtureRequest) -> Settings:
    """The settings of each of the units; of the template, as instance `yard`."""
    settings = settings_of(request.param)
    for values in settings.values():
        values[:] = [value.replace("%i", "yard").replace("%S", "/var/lib") for value in values]
    return settings


@pytest.fixture(params=[UNIT, TEMPLATE], ids=lambda file: file.name)
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The unit as installed, but for the program: `systemd-analyze` wants that to exist."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (apt-get install systemd)")
    unit: Path = request.param
    file = tmp_path / unit.name.replace("@", "@yard")
    text = unit.read_text(encoding="utf-8")
    file.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", text), encoding="utf-8")
    return file


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


def test_systemd_takes_the_unit(installed: Path) -> None:
    """No unknown key and no bad value."""
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

    options = argument_parser().parse_args(arguments)

    assert Path(program).name == "urbansound"
    assert options.config is not None
    assert options.config.parent == Path("/etc") / unit["ConfigurationDirectory"][0]
    assert options.config.name in ("agent.toml", "yard.toml")


def test_the_outbox_is_in_the_state_folder(unit: Settings) -> None:
    """Without configuration, the agent spools where the unit lets it write; each microphone of several on its own."""
    environment = dict(setting.split("=", 1) for setting in unit.get("Environment", []))

    assert load_config(None, environment).spool.path.parent == Path("/var/lib") / unit["StateDirectory"][0]


def test_the_template_is_the_unit_but_for_its_names() -> None:
    """What is said of one unit holds for the other: configuration, outbox and password are the instance's own."""
    one, each = settings_of(UNIT), settings_of(TEMPLATE)
    different = {name for name in one | each if one.get(name) != each.get(name)}

    assert different == {"Description", "ExecStart", "StateDirectory", "LoadCredential", "Environment"}
    assert all("%i" in value for name in different for value in each[name])


def test_a_reload_is_the_signal_that_the_agent_reads_its_configuration_at(unit: Settings) -> None:
    """`systemctl reload` sends SIGHUP; from systemd 253 on, systemd sends it itself and waits for the answer."""
    assert unit["ExecReload"] == ['/bin/sh -c "kill -HUP ${MAINPID}"']
    assert settings_of(NOTIFY_RELOAD) == {"Type": ["notify-reload"], "ExecReload": [""]}


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


def test_the_password_has_the_name_that_the_agent_looks_for(unit: Settings) -> None:
    """The unit's credential is the one that the agent reads; without a path, it may be missing."""
    (credential,) = unit["LoadCredential"]
    name, _, file = credential.partition(":")

    assert name == CREDENTIAL_NAME
    assert file in ("urbansound.mqtt_password", "urbansound-yard.mqtt_password")
