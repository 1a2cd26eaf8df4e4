"""Promises of `systemd/`, in a real systemd: installed, started, watched, reloaded, updated, removed.

One machine lives through all of it, in the order of the tests' lines; the tests look at what was seen.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr

from demo.scene import SAMPLE_RATE_HZ as SCENE_RATE_HZ
from demo.scene import Sounding, render
from tests.broker import HOST, Broker, Subscriber, free_port, wait_until
from tests.conftest import REPOSITORY
from tests.machine import Machine, UnavailableError, only_one
from tests.sound_server import SAMPLE_RATE_HZ
from tests.street import Loudspeaker, Pcm
from tests.test_security import listening

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SECRET = "hunter2-correct-horse"
NODE = "urbansound/node-07"
FOREIGN = "/var/lib/urbansound-collector/events.db"
AGENT, YARD = "urbansound.service", "urbansound@yard.service"
CONFIGURATION = "/etc/urbansound/agent.toml"
INSTALL = "/root/source/systemd/install.sh --wheels /root/wheels"
# A `systemctl` after whose `stop` the installer is interrupted. Not by SIGHUP: whoever runs tests may have it ignored.
INTERRUPTS = '#!/bin/sh\n/usr/bin/systemctl "$@"\n[ "$1" != stop ] || kill -TERM "$PPID"\n'
INSTALL_LIMIT_S = 600.0  # pip, on a busy machine
FIFO = "/srv/sound/fifo"

PULSEAUDIO = f"""\
[Service]
RuntimeDirectory=pulse
ExecStart=/usr/bin/pulseaudio -n --daemonize=no --exit-idle-time=-1 --use-pid-file=no --realtime=no --high-priority=no \
-L "module-native-protocol-unix auth-anonymous=1 socket=/run/pulse/native" \
-L "module-pipe-source source_name=fifomic file={FIFO} format=s16le rate={SAMPLE_RATE_HZ} channels=1"
"""
ALSA = """\
</usr/share/alsa/alsa.conf>
pcm.fifomic { type pulse device "fifomic" hint { show on description "what is written into a FIFO" } }
"""
# The one thing that is the test's and not the unit's: where the microphone is, as there is no sound card.
MICROPHONE = "[Service]\nEnvironment=PULSE_SERVER=unix:/run/pulse/native ALSA_CONFIG_PATH=/etc/fifomic.conf\n"


def configuration(*, node: str, port: int, more: str = "") -> str:
    return f"""\
# mine
[node]
id = "{node}"
[audio]
device = "fifomic"
sample_rate_hz = {SAMPLE_RATE_HZ}
channel = 1
[mqtt]
host = "{HOST}"
port = {port}
username = "{node}"
{more}"""


def siren() -> Pcm:
    scene = render((Sounding("siren", 0.5, 8.0, -20.0),), 9.0)
    samples: Pcm = np.round(soxr.resample(scene, SCENE_RATE_HZ, SAMPLE_RATE_HZ) * 32767).astype(np.int16)
    return samples


@dataclass
class Seen:
    """What was seen, in its order.

    Attributes:
        installed: files of the machine after the installation: owner and mode by path.
        before_sound: the unit's state with a microphone that gives nothing.
        without_credential: the journal while the password's file was missing.
        running: the unit's state with sound.
        process: `/proc/PID/status` of the agent.
        environ: `/proc/PID/environ` of the agent.
        listens: on what the agent listens.
        told: what it told the broker of sirens.
        reloaded: the pid before and after, and the labels in `info`.
        refused: the unit's state after a reload with a bad file.
        watched: the unit's state after the agent was stopped dead.
        watchdog_journal: what systemd said about that.
        misconfigured: the unit's state when it was started with a bad file.
        both: states of the unit and of the template's instance, side by side.
        spools: the outboxes of the two.
        update: what the installer said the second time; the configuration and the releases after it.
        after_a_cut: the program's files and their sizes, had power failed right after that; None without a disk for it.
        interrupted: the program, and the unit's state, after an update that was interrupted.
        bad_update: what it said when the new version refused the configuration, and the program after it.
        removed: files of the machine after `--uninstall`, and what it said.
        purged: the same after `--purge`.
    """

    installed: dict[str, str] = field(default_factory=dict)
    before_sound: dict[str, str] = field(default_factory=dict)
    without_credential: str = ""
    running: dict[str, str] = field(default_factory=dict)
    process: dict[str, str] = field(default_factory=dict)
    environ: str = ""
    listens: list[str] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    reloaded: tuple[str, str, list[str]] = ("", "", [])
    refused: dict[str, str] = field(default_factory=dict)
    watched: dict[str, str] = field(default_factory=dict)
    watchdog_journal: str = ""
    misconfigured: dict[str, str] = field(default_factory=dict)
    both: list[dict[str, str]] = field(default_factory=list)
    spools: list[str] = field(default_factory=list)
    update: tuple[str, str, list[str]] = ("", "", [])
    after_a_cut: dict[str, int] | None = None
    interrupted: tuple[str, dict[str, str]] = ("", {})
    bad_update: tuple[str, str] = ("", "")
    removed: tuple[str, list[str]] = ("", [])
    purged: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent and what it needs, as wheels."""
    source, wheels = tmp_path_factory.mktemp("source") / "agent", tmp_path_factory.mktemp("wheels")
    source.mkdir()
    for name in ("agent", "model_export"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(wheels)]
    command += ["--constraint", str(REPOSITORY / "constraints.txt"), str(source)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if made.returncode != 0:
        pytest.skip(f"pip cannot make wheels, perhaps without a network: {made.stderr[-300:]}")
    return wheels


@pytest.fixture(scope="module")
def machine(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A Debian with a microphone, and the project's files on it."""
    with only_one(), ExitStack() as stack:
        try:
            machine = Machine(tmp_path_factory.mktemp("machine"))
            stack.callback(machine.end)
            source = machine.root / "root" / "source"
            for name in ("systemd", "config", "tools"):
                shutil.copytree(REPOSITORY / name, source / name)
            shutil.copy(REPOSITORY / "constraints.txt", source)
            shutil.copytree(wheels, machine.root / "root" / "wheels")
            machine.write("/etc/systemd/system/pulse.service", PULSEAUDIO)
            machine.write("/etc/fifomic.conf", ALSA)
            for unit in ("urbansound.service", "urbansound@.service"):
                machine.write(f"/etc/systemd/system/{unit}.d/microphone.conf", MICROPHONE)
            machine.write("/root/interrupts/systemctl", INTERRUPTS, mode=0o755)
            (machine.root / FIFO.lstrip("/")).parent.mkdir(parents=True)
            if give_disk(machine):
                stack.callback(take_disk, machine)
                stack.callback(machine.end)
            machine.boot()
        except UnavailableError as error:
            pytest.skip(f"no machine with systemd here: {error}")
        machine.run("systemctl start pulse")
        machine.wait((machine.root / FIFO.lstrip("/")).is_fifo, "the microphone")
        yield machine


def disk_of(machine: Machine) -> Path:
    """The disk on which the machine has its programs."""
    return machine.root.with_name("opt.ext4")


def give_disk(machine: Machine) -> bool:
    """Lay `/opt` on a disk of its own, where the host can mount one."""
    disk = disk_of(machine)
    with disk.open("wb") as file:
        file.truncate(4 << 30)
    if shutil.which("mkfs.ext4") is None:
        return False
    subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True, timeout=60)
    mounted = subprocess.run(["mount", "-o", "loop", disk, machine.root / "opt"], capture_output=True, check=False)
    return mounted.returncode == 0


def take_disk(machine: Machine) -> None:
    """Unmount it; the machine is off."""
    subprocess.run(["umount", machine.root / "opt"], check=True, timeout=60)


def after_a_cut(machine: Machine) -> dict[str, int] | None:
    """Files of the program and their sizes, if power failed now: what is written only in memory is not on the disk."""
    if not (machine.root / "opt").is_mount():
        return None
    with (machine.root / "opt" / "committed").open("w") as file:
        os.fsync(file)  # the journal with it, so that what was removed is removed
    copy, folder = disk_of(machine).with_name("cut.ext4"), machine.root.with_name("cut")
    folder.mkdir()
    subprocess.run(["cp", "--sparse=always", disk_of(machine), copy], check=True, timeout=60)
    subprocess.run(["mount", "-o", "loop", copy, folder], check=True, timeout=60)
    try:
        program = folder / "urbansound" / "releases" / (folder / "urbansound" / "venv").readlink().name
        files = [file for file in program.rglob("*") if file.is_file() and not file.is_symlink()]
        return {str(file.relative_to(program)): file.stat().st_size for file in files}
    finally:
        subprocess.run(["umount", folder], check=True, timeout=60)
        copy.unlink()


def found(machine: Machine) -> list[str]:
    """What there is of the agent on a machine."""
    places = "/opt/urbansound /etc/urbansound /etc/credstore /var/lib/urbansound* /var/lib/private/urbansound* "
    places += "/usr/local/bin/urbansound /etc/systemd/system/urbansound* /etc/systemd/system/*.wants/urbansound*"
    return machine.run(f"ls -d {places} /etc/credstore/* 2>/dev/null", check=False).split()


def state_of(machine: Machine, unit: str) -> dict[str, str]:
    names = ("ActiveState", "SubState", "MainPID", "NRestarts", "StatusText", "ExecMainStatus", "Result", "Type")
    return machine.shows(unit, *names)


@pytest.fixture(scope="module")
def seen(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """The life of a machine, from the installation to the end."""
    seen = Seen()
    with ExitStack() as stack:
        passwords = {"node-07": SECRET, "fleet": "fleet"}
        broker = Broker(tmp_path_factory.mktemp("broker"), passwords=passwords).start()
        stack.callback(broker.kill)
        subscriber = stack.enter_context(closing(Subscriber(broker.options(username="fleet", password="fleet"))))
        good = configuration(node="node-07", port=broker.port)

        def infos() -> list[dict[str, Any]]:
            return [json.loads(payload) for payload in subscriber.payloads(f"{NODE}/info")]

        def sirens() -> list[dict[str, Any]]:
            events = map(json.loads, subscriber.payloads(f"{NODE}/street/event"))
            return [event for event in events if event["label"] == "siren"]

        def is_running(unit: str = AGENT) -> bool:
            return state_of(machine, unit)["SubState"] == "running"

        # Installed.
        machine.run(INSTALL, limit_s=INSTALL_LIMIT_S)
        listed = f"/opt/urbansound/venv /usr/local/bin/urbansound {CONFIGURATION} /etc/systemd/system/{AGENT}"
        for line in machine.run(f"stat -c '%n %U %a' {listed}").splitlines():
            name, owner_and_mode = line.split(" ", 1)
            seen.installed[name] = owner_and_mode
        seen.installed["state"] = state_of(machine, AGENT)["ActiveState"]
        seen.installed["check"] = machine.run(f"urbansound check {CONFIGURATION}").splitlines()[-1]

        # Started, without a password and without sound.
        machine.write(CONFIGURATION, good)
        machine.run(f"systemctl enable --quiet --now --no-block {AGENT}")
        machine.wait(lambda: "capture.opened" in machine.journal(AGENT), "the microphone to be opened")
        machine.wait(lambda: "refuses us" in machine.journal(AGENT), "the broker to refuse")
        seen.before_sound = state_of(machine, AGENT)
        seen.without_credential = machine.journal(AGENT)

        # With both.
        machine.write("/etc/credstore/urbansound.mqtt_password", f"{SECRET}\n", mode=0o600)
        machine.run(f"systemctl restart --no-block {AGENT}")
        loudspeaker = stack.enter_context(closing(Loudspeaker(machine.root / FIFO.lstrip("/"))))
        machine.wait(is_running, "READY")
        subscriber.wait_for(1, f"{NODE}/info")
        seen.running = state_of(machine, AGENT)
        pid = seen.running["MainPID"]
        for line in machine.run(f"cat /proc/{pid}/status").splitlines():
            name, _, value = line.partition(":")
            seen.process[name] = value.strip()
        seen.environ = machine.run(f"tr '\\0' '\\n' </proc/{pid}/environ")
        seen.listens = listening(host_pid(machine, pid))
        loudspeaker.play(siren())
        wait_until(lambda: "end" in {siren["event_type"] for siren in sirens()}, "the end of the siren")
        seen.told = sirens()

        # Reloaded, with a good file and with a bad one.
        n_infos = len(infos())
        machine.write(CONFIGURATION, good + '[events]\nlabels = ["siren"]\n')
        machine.run(f"systemctl reload {AGENT}")
        wait_until(lambda: len(infos()) > n_infos, "the new labels")
        seen.reloaded = (pid, state_of(machine, AGENT)["MainPID"], infos()[-1]["labels"])
        machine.write(CONFIGURATION, good + "[events.default]\non = 2.0\n")
        machine.run(f"systemctl reload {AGENT}")
        machine.wait(lambda: "refused" in state_of(machine, AGENT)["StatusText"], "the refusal")
        machine.wait(is_running, "the end of the reload")
        seen.refused = state_of(machine, AGENT)
        machine.write(CONFIGURATION, good)

        # Stopped dead.
        machine.run(f"kill -STOP {pid}")
        machine.wait(lambda: state_of(machine, AGENT)["NRestarts"] == "1", "the watchdog")
        machine.wait(is_running, "READY again")
        seen.watched = state_of(machine, AGENT)
        seen.watchdog_journal = machine.journal(AGENT)

        # Misconfigured.
        machine.write(CONFIGURATION, "[events.default]\non = 2.0\n")
        machine.run(f"systemctl restart {AGENT}", check=False)
        machine.wait(lambda: state_of(machine, AGENT)["ActiveState"] == "failed", "the end")
        seen.misconfigured = state_of(machine, AGENT)
        machine.write(CONFIGURATION, good)

        # Two microphones; the second finds no broker, so that its event waits.
        machine.write("/etc/urbansound/yard.toml", configuration(node="node-07-yard", port=free_port()))
        machine.run(f"systemctl enable --quiet {YARD}")
        machine.run(f"systemctl start {AGENT} {YARD}")
        seen.both = [state_of(machine, unit) for unit in (AGENT, YARD)]
        n_told = len(subscriber.payloads(f"{NODE}/street/event"))
        loudspeaker.play(siren())
        machine.wait(lambda: "event.end" in machine.journal(YARD), "the yard to hear a siren")
        subscriber.wait_for(n_told + 2, f"{NODE}/street/event")
        seen.spools = machine.run("ls /var/lib/urbansound/spool.sqlite /var/lib/urbansound-yard/spool.sqlite").split()

        # Updated; and not, where the new version refuses the configuration of what runs.
        before = machine.run("readlink /opt/urbansound/venv").strip()
        said = machine.run(INSTALL, limit_s=INSTALL_LIMIT_S)
        seen.after_a_cut = after_a_cut(machine)
        releases = machine.run("ls /opt/urbansound/releases").split()
        seen.update = (said, machine.run(f"cat {CONFIGURATION}"), [Path(before).name, *releases])
        for unit in (AGENT, YARD):
            machine.wait(lambda unit=unit: is_running(unit), f"{unit} after the update")  # type: ignore[misc]
        machine.run(f"PATH=/root/interrupts:$PATH {INSTALL}", check=False, limit_s=INSTALL_LIMIT_S)
        machine.wait(is_running, "the agent after an update that was interrupted")
        seen.interrupted = (machine.run("readlink /opt/urbansound/venv").strip(), state_of(machine, AGENT))
        machine.write(CONFIGURATION, "[events.default]\non = 2.0\n")
        said = machine.run(INSTALL, check=False, limit_s=INSTALL_LIMIT_S)
        seen.bad_update = (said, machine.run("readlink /opt/urbansound/venv").strip().rpartition("/")[2])
        machine.write(CONFIGURATION, good)

        # Removed; another program has a folder whose name begins alike, and one instance never had a configuration.
        machine.run("systemctl start urbansound@attic", check=False)
        machine.write(FOREIGN, "of another program")
        said = machine.run("/root/source/systemd/install.sh --uninstall")
        seen.removed = (said, found(machine))
        machine.run("/root/source/systemd/install.sh --uninstall --purge")
        seen.purged = found(machine)
    return seen


def host_pid(machine: Machine, pid: str) -> int:
    """A process of the machine as the host counts it."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text(encoding="utf-8")
        except OSError:
            continue
        row = next((line for line in text.splitlines() if line.startswith("NSpid:")), "")
        if row.split()[-1:] == [pid] and len(row.split()) > 2 and "urbansound" in text:
            return int(status.parent.name)
    raise AssertionError(f"no process {pid} of {machine.root}")


def test_the_installer_makes_program_configuration_and_units(seen: Seen) -> None:
    """Everything is root's and readable by the service; the command works; nothing is started that did not run."""
    assert seen.installed["/etc/urbansound/agent.toml"] == "root 644"
    assert seen.installed["/etc/systemd/system/urbansound.service"] == "root 644"
    assert seen.installed["/opt/urbansound/venv"].startswith("root ")
    assert seen.installed["/usr/local/bin/urbansound"].startswith("root ")
    assert seen.installed["state"] == "inactive"
    assert seen.installed["check"].endswith(f"{CONFIGURATION}: all is well")


def test_ready_comes_with_sound_and_not_before(seen: Seen) -> None:
    """With a microphone that gives nothing the unit is `activating`; with sound it is `active`."""
    assert (seen.before_sound["ActiveState"], seen.before_sound["Type"]) == ("activating", "notify")
    assert seen.before_sound["StatusText"].startswith("waiting for the microphone")
    assert seen.running["ActiveState"] == "active"
    assert "s analysed" in seen.running["StatusText"]


def test_the_credential_reaches_the_agent_and_nobody_else(seen: Seen) -> None:
    """Without its file the unit starts, and the broker refuses; with it, the broker lets it in. It is shown nowhere."""
    assert "refuses us, user name 'node-07'" in seen.without_credential
    assert seen.told
    assert "CREDENTIALS_DIRECTORY=/run/credentials/urbansound.service" in seen.environ
    assert SECRET not in seen.environ + seen.watchdog_journal + str(seen.running)


def test_the_agent_is_nobody_and_may_nothing(seen: Seen) -> None:
    """It runs as a user that exists only while it runs, without capabilities, behind a filter of system calls."""
    uids = {int(uid) for uid in seen.process["Uid"].split()}
    assert len(uids) == 1
    assert 61184 <= uids.pop() <= 65519, "the range of DynamicUser"
    assert int(seen.process["CapEff"], 16) == int(seen.process["CapBnd"], 16) == 0
    assert (seen.process["NoNewPrivs"], seen.process["Seccomp"]) == ("1", "2")


def test_it_hears_as_that_user(seen: Seen) -> None:
    """A siren that is played to its microphone is on the broker, from the start to the end."""
    assert [message["event_type"] for message in seen.told[:2]] == ["start", "end"]


def test_it_listens_on_nothing_while_it_hears(seen: Seen) -> None:
    """Nobody can connect to a node that runs as it is delivered."""
    assert seen.listens == []


def test_a_reload_changes_what_is_told(seen: Seen) -> None:
    """`systemctl reload` takes, in the same process."""
    before, after, labels = seen.reloaded

    assert before == after
    assert labels == ["siren"]


def test_a_reload_of_a_bad_file_is_refused(seen: Seen) -> None:
    """The unit stays active, in the same process, and its status says why."""
    assert seen.refused["SubState"] == "running"
    assert seen.refused["MainPID"] == seen.running["MainPID"]
    assert "new configuration refused: " in seen.refused["StatusText"]
    assert "events.default.on = 2.0" in seen.refused["StatusText"]


def test_the_watchdog_starts_a_dead_agent_anew(seen: Seen) -> None:
    """An agent that does nothing any more is killed after 30 s, and hears again."""
    assert "Watchdog timeout (limit 30s)!" in seen.watchdog_journal
    assert seen.watched["NRestarts"] == "1"
    assert seen.watched["MainPID"] != seen.running["MainPID"]
    assert seen.watched["ActiveState"] == "active"


def test_what_only_a_person_can_help_is_not_tried_again(seen: Seen) -> None:
    """With a wrong configuration the unit ends with 78 and stays down."""
    assert (seen.misconfigured["ActiveState"], seen.misconfigured["ExecMainStatus"]) == ("failed", "78")
    assert seen.misconfigured["NRestarts"] == "0"


def test_two_microphones_run_side_by_side(seen: Seen) -> None:
    """Each in its own process, with a configuration and an outbox of its own, from one program and model."""
    assert [state["SubState"] for state in seen.both] == ["running", "running"]
    assert len({state["MainPID"] for state in seen.both}) == 2
    assert sorted(seen.spools) == ["/var/lib/urbansound-yard/spool.sqlite", "/var/lib/urbansound/spool.sqlite"]


def test_an_update_leaves_the_configuration_and_one_release(seen: Seen) -> None:
    """The installer may be run again: what runs is restarted from a new release, and the configuration is as it was."""
    said, configured, (before, *releases) = seen.update

    assert configured.startswith("# mine\n")
    assert f"restarted: {AGENT} {YARD}" in said
    assert len(releases) == 1
    assert releases != [before]


def test_an_update_survives_a_power_cut(seen: Seen) -> None:
    """Once the old program is gone, the new one is on the disk, and not only in memory."""
    if seen.after_a_cut is None:
        pytest.skip("no disk can be mounted here")

    assert seen.after_a_cut["bin/urbansound"] > 0
    assert any(size > 0 for file, size in seen.after_a_cut.items() if file.endswith("agent/sensor.py"))
    assert sum(size > 0 for size in seen.after_a_cut.values()) > 0.9 * len(seen.after_a_cut)


def test_an_update_that_is_interrupted_leaves_the_old_program_running(seen: Seen) -> None:
    """Whatever interrupts the installer while the services are stopped, they are started again."""
    program, state = seen.interrupted

    assert Path(program).name == seen.update[2][1]
    assert state["ActiveState"] == "active"


def test_an_update_that_refuses_the_configuration_is_none(seen: Seen) -> None:
    """The old program stays where the new one would not start."""
    said, release = seen.bad_update

    assert f"the new version refuses the configuration of {AGENT}" in said
    assert "events.default.on = 2.0" in said
    assert release == seen.update[2][1]


def test_uninstall_leaves_what_is_not_ours_to_lose(seen: Seen) -> None:
    """Program, units and an empty outbox are gone; configuration, password and undelivered messages stay."""
    said, left = seen.removed

    assert "/etc/urbansound" in left
    assert "/etc/credstore/urbansound.mqtt_password" in left
    assert "/var/lib/urbansound-yard" in left
    assert "/var/lib/urbansound-attic" not in left
    assert re.search(r"urbansound-yard/spool\.sqlite stays: [1-9]\d* messages wait in it", said)
    assert not {"/opt/urbansound", "/usr/local/bin/urbansound", "/var/lib/urbansound"} & set(left)
    assert not any(path.endswith(".service") for path in left)


def test_purge_leaves_nothing_of_ours(seen: Seen) -> None:
    """Nor does it leave a password; what another program has in a folder with such a name stays."""
    assert [path for path in seen.purged if path != "/etc/credstore"] == [str(Path(FOREIGN).parent)]
