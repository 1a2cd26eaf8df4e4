"""Promises of `docs/security.md`: who may publish and read, that no secret is shown, and that data is never code."""

import argparse
import ast
import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.accelerator import try_in_a_process
from agent.app import Judge
from agent.broker import Connection
from agent.clock import recording_timeline
from agent.config import Config, load_config
from agent.errors import AgentError, BrokerError, ConfigError
from agent.litert import Device
from agent.model_card import DEFAULT_MODEL, load_model_folder
from agent.outbox import Outbox, broker_options
from agent.stop import Stop
from tests.broker import (
    HOST,
    Broker,
    BrokerFactory,
    Certificates,
    Subscriber,
    SubscriberFactory,
    free_port,
    wait_until,
)
from tests.commands import Caller, CommandFactory
from tests.conftest import REPOSITORY
from tests.sound_server import SoundServer
from tests.test_docs import PARSERS, commands_of
from tests.test_outbox import RATE_HZ, START, event

MOSQUITTO = REPOSITORY / "config" / "mosquitto"
INSTALLED = "/etc/mosquitto/urbansound"
SECRET = "hunter2-correct-horse"
NODE, OTHER = "urbansound/node-07", "urbansound/node-08"


# Who may publish, who may read: the broker of config/mosquitto


def certificate(authority: Path, *what: str) -> None:
    """Call the script as docs/security.md says."""
    command = [str(MOSQUITTO / "certificates.sh"), str(authority), *what]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert made.returncode == 0, made.stderr


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a certificate authority, with a broker, two nodes, and who collects."""
    folder = tmp_path_factory.mktemp("authority")
    certificate(folder, "authority")
    certificate(folder, "broker", HOST)
    for name in ("node-07", "node-08", "fleet"):
        certificate(folder, "node", name)
    return folder


class Guarded(Broker):
    """mosquitto with the project's own configuration; only its folder and its port are the test's."""

    def __init__(self, folder: Path, authority: Path, host: str = HOST) -> None:
        super().__init__(folder)
        self.host = host
        for name in ("ca.crt", "ca.crl", "broker.crt", "broker.key"):
            shutil.copy(authority / name, folder)
        shutil.copy(MOSQUITTO / "acl", folder)
        text = (MOSQUITTO / "urbansound.conf").read_text(encoding="utf-8")
        text = text.replace(INSTALLED, str(folder)).replace("listener 8883", f"listener {self.port} {host}")
        (folder / "mosquitto.conf").write_text(f"user root\nlog_dest stderr\n{text}", encoding="utf-8")


@pytest.fixture
def guarded(authority: Path, tmp_path: Path) -> Iterator[Guarded]:
    broker = Guarded(tmp_path / "guarded", authority)
    yield broker
    broker.stop()


def config_of(broker: Broker, authority: Path, folder: Path, *, node: str, certificate_of: str) -> Config:
    """A node's configuration, as docs/security.md says."""
    return Config.model_validate(
        {
            "node": {"id": node},
            "mqtt": {
                "host": broker.host,
                "port": broker.port,
                "tls": {
                    "enabled": True,
                    "ca_file": str(authority / "ca.crt"),
                    "cert_file": str(authority / f"{certificate_of}.crt"),
                    "key_file": str(authority / f"{certificate_of}.key"),
                },
            },
            "spool": {"path": str(folder / f"{node}.sqlite")},
        }
    )


def outbox_of(config: Config, judge: Judge) -> Outbox:
    return Outbox(config, judge, environment={}, stop=Stop())


def subscriber_of(config: Config) -> Subscriber:
    return Subscriber(broker_options(config.mqtt, {}))


def test_a_node_writes_its_own_topics_and_fleet_reads_them(
    guarded: Guarded, authority: Path, judge: Judge, tmp_path: Path
) -> None:
    """With a certificate from our authority, the agent as it is delivers everything that it says."""
    guarded.start()
    fleet = config_of(guarded, authority, tmp_path, node="fleet", certificate_of="fleet")
    node = config_of(guarded, authority, tmp_path, node="node-07", certificate_of="node-07")
    with contextlib.closing(subscriber_of(fleet)) as subscriber:
        with outbox_of(node, judge) as outbox:
            tell = outbox.teller(RATE_HZ, recording_timeline(START, RATE_HZ))
            tell(event("start"))
            tell(event("end"))
            subscriber.wait_for(2, f"{NODE}/street/event")
            assert outbox.publisher.delivery().refused == 0
        wait_until(lambda: subscriber.payloads(f"{NODE}/status")[-1:] == [b"offline"], "`offline`")

    assert subscriber.payloads(f"{NODE}/status")[0] == b"online"
    assert json.loads(subscriber.payloads(f"{NODE}/info")[-1])["node"] == "node-07"


def test_a_node_may_not_write_as_another(guarded: Guarded, authority: Path, judge: Judge, tmp_path: Path) -> None:
    """Who claims to be node-08 with the certificate of node-07 is refused; nobody hears a word of it."""
    guarded.start()
    fleet = config_of(guarded, authority, tmp_path, node="fleet", certificate_of="fleet")
    impostor = config_of(guarded, authority, tmp_path, node="node-08", certificate_of="node-07")
    with contextlib.closing(subscriber_of(fleet)) as subscriber, outbox_of(impostor, judge) as outbox:
        tell = outbox.teller(RATE_HZ, recording_timeline(START, RATE_HZ))
        tell(event("start"))
        tell(event("end"))
        wait_until(lambda: outbox.publisher.delivery().refused >= 4, "status, info and both messages to be refused")
        refusal = outbox.publisher.delivery().last_error
        with outbox_of(config_of(guarded, authority, tmp_path, node="node-07", certificate_of="node-07"), judge):
            subscriber.wait_for(1, f"{NODE}/info")  # what was let through before would have come before

    assert refusal is not None
    assert "Not authorized" in refusal
    assert [message.topic for message in subscriber.messages if message.topic.startswith(OTHER)] == []


def test_a_node_may_read_nothing(guarded: Guarded, authority: Path, judge: Judge, tmp_path: Path) -> None:
    """A stolen node hears no other node, and not even itself."""
    guarded.start()
    thief = config_of(guarded, authority, tmp_path, node="node-07", certificate_of="node-07")
    fleet = config_of(guarded, authority, tmp_path, node="fleet", certificate_of="fleet")
    other = config_of(guarded, authority, tmp_path, node="node-08", certificate_of="node-08")
    with contextlib.closing(subscriber_of(thief)) as stolen, contextlib.closing(subscriber_of(fleet)) as subscriber:
        for config in (other, thief):
            with outbox_of(config, judge) as outbox:
                tell = outbox.teller(RATE_HZ, recording_timeline(START, RATE_HZ))
                tell(event("start"))
                tell(event("end"))
                subscriber.wait_for(2, f"urbansound/{config.node.id}/street/event")

        assert len(subscriber.messages) >= 6
        assert stolen.messages == []


def test_who_collects_may_not_write_as_a_node(guarded: Guarded, authority: Path, tmp_path: Path, judge: Judge) -> None:
    """The certificate that reads everything invents nothing."""
    guarded.start()
    config = config_of(guarded, authority, tmp_path, node="node-07", certificate_of="fleet")
    with contextlib.closing(subscriber_of(config)) as subscriber, outbox_of(config, judge) as outbox:
        wait_until(lambda: outbox.publisher.delivery().refused >= 2, "status and info to be refused")

    assert subscriber.messages == []


@pytest.mark.parametrize("who", ["nobody", "a stranger", "in the clear", "who was revoked"])
def test_nobody_else_is_let_in(
    guarded: Guarded, authority: Path, other_certificates: Certificates, tmp_path: Path, who: str
) -> None:
    """Without a certificate, with that of another authority, without TLS, or revoked, there is no connection."""
    own = tmp_path / "authority"
    shutil.copytree(authority, own)
    config = config_of(guarded, authority, tmp_path, node="node-07", certificate_of="node-07")
    tls: dict[str, Any] = config.mqtt.tls.model_dump()
    if who == "nobody":
        tls |= {"cert_file": None, "key_file": None}
    elif who == "a stranger":
        tls |= {"cert_file": other_certificates.client, "key_file": other_certificates.client_key}
    elif who == "in the clear":
        tls = {}
    else:
        certificate(own, "revoke", "node-07")
        shutil.copy(own / "ca.crl", tmp_path / "guarded" / "ca.crl")
    mqtt = Config.model_validate({"mqtt": {"host": HOST, "port": guarded.port, "tls": tls}}).mqtt
    guarded.start()

    with pytest.raises(BrokerError):
        Connection(broker_options(mqtt, {}), "node-07")

    friend = config_of(guarded, own, tmp_path, node="node-08", certificate_of="node-08")
    Connection(broker_options(friend.mqtt, {}), "node-08").close()


def test_who_takes_the_place_of_a_stolen_node_has_its_name(authority: Path, tmp_path: Path) -> None:
    """Once the certificate of a node is revoked, the broker takes another one for the same node."""
    own = tmp_path / "authority"
    shutil.copytree(authority, own)
    certificate(own, "revoke", "node-07")
    certificate(own, "node", "node-07")
    broker = Guarded(tmp_path / "guarded", own)
    config = config_of(broker, own, tmp_path, node="node-07", certificate_of="node-07")
    with contextlib.ExitStack() as stack:
        stack.callback(broker.stop)
        broker.start()

        Connection(broker_options(config.mqtt, {}), "node-07").close()


def test_a_broker_may_be_named_by_its_ipv6_address(authority: Path, tmp_path: Path) -> None:
    """A node that is given the address of the broker's certificate connects to it."""
    own = tmp_path / "authority"
    shutil.copytree(authority, own)
    for old in own.glob("broker.*"):
        old.unlink()
    certificate(own, "broker", "::1")
    broker = Guarded(tmp_path / "guarded", own, host="::1")
    config = config_of(broker, own, tmp_path, node="node-07", certificate_of="node-07")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6))
        except OSError:
            pytest.skip("no IPv6 on this machine")
        stack.callback(broker.stop)
        broker.start()

        Connection(broker_options(config.mqtt, {}), "node-07").close()


def test_the_keys_of_the_authority_are_for_its_owner(authority: Path) -> None:
    """Nobody else on that machine can read a key."""
    keys = sorted(authority.glob("*.key"))

    assert [key.name for key in keys] == ["broker.key", "ca.key", "fleet.key", "node-07.key", "node-08.key"]
    assert all(key.stat().st_mode & 0o077 == 0 for key in keys)


def test_the_script_overwrites_no_key_and_takes_no_name_that_the_acl_would_not(authority: Path) -> None:
    """A second node-07, or a name with a wildcard in it, is refused."""
    for what in (("authority",), ("node", "node-07"), ("node", "+"), ("node", "#"), ("node", "a/b"), ("who", "x")):
        before = {file.name: file.read_bytes() for file in authority.iterdir()}
        command = [str(MOSQUITTO / "certificates.sh"), str(authority), *what]

        refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

        assert refused.returncode != 0
        assert refused.stderr
        assert {file.name: file.read_bytes() for file in authority.iterdir()} == before


# No secret anywhere


def with_secret(place: str, folder: Path, more: str) -> tuple[Path, dict[str, str]]:
    """A configuration whose password stands in one of the places that it may; the environment that goes with it."""
    mqtt, environment = 'username = "node-07"\n', {}
    if place == "inline":
        mqtt += f'password = "{SECRET}"\n'
    elif place == "environment":
        environment = {"URBANSOUND_MQTT__PASSWORD": SECRET}
    else:
        file = folder / ("password" if place == "file" else "mqtt_password")
        file.write_text(f"{SECRET}\n", encoding="utf-8")
        if place == "file":
            mqtt += f'password_file = "{file}"\n'
        else:
            environment = {"CREDENTIALS_DIRECTORY": str(folder)}
    config = folder / "agent.toml"
    config.write_text(
        f"[mqtt]\n{mqtt}{more}"
        f'[node]\nid = "node-07"\n[audio]\ndevice = "no such microphone"\n[log]\nlevel = "debug"\n'
        f'[spool]\npath = "{folder}/spool.sqlite"\n',
        encoding="utf-8",
    )
    return config, environment


PLACES = pytest.mark.parametrize("place", ["inline", "file", "environment", "credential"])


@PLACES
@pytest.mark.parametrize("password", [SECRET, "another"])
def test_a_running_agent_shows_no_secret(  # noqa: PLR0917  what it needs
    urbansound: CommandFactory,
    make_broker: BrokerFactory,
    subscribe: SubscriberFactory,
    place: str,
    password: str,
    tmp_path: Path,
) -> None:
    """Neither where the broker takes it nor where it refuses it: log, messages, outbox, list of processes."""
    broker = make_broker(passwords={"node-07": password, "fleet": "fleet"}).start()
    subscriber = subscribe(broker.options(username="fleet", password="fleet"))
    config, environment = with_secret(place, tmp_path, f'host = "{HOST}"\nport = {broker.port}\n')
    agent = urbansound("run", "--config", config, more=environment)
    agent.wait_for_log("mqtt.connected" if password == SECRET else "refuses us, user name 'node-07'")
    command_line = Path(f"/proc/{agent.process.pid}/cmdline").read_text(encoding="utf-8")
    if password == SECRET:
        subscriber.wait_for(1, f"{NODE}/info")
    agent.signal(signal.SIGTERM)

    assert agent.wait() == 143
    assert "mqtt." in agent.stderr
    assert SECRET not in agent.stderr + "".join(agent.lines) + command_line
    assert not any(SECRET.encode() in message.payload for message in subscriber.messages)
    assert SECRET not in broker.log.read_text(encoding="utf-8")
    spool = b"".join(file.read_bytes() for file in tmp_path.glob("spool.sqlite*"))
    assert spool
    assert SECRET.encode() not in spool


@PLACES
def test_check_shows_no_secret(call: Caller, monkeypatch: pytest.MonkeyPatch, place: str, tmp_path: Path) -> None:
    """What is in effect is printed, with the password masked."""
    config, environment = with_secret(place, tmp_path, "")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    said = call("check", config)

    assert said.code == 0
    assert 'username = "node-07"' in said.out
    assert ('password = "**********"' in said.out) == (place in ("inline", "environment"))
    assert SECRET not in said.out + said.err


@pytest.mark.parametrize(
    "text",
    [
        f"[mqtt]\npasswort = '{SECRET}'",
        f"[mqtt]\npassword = ['{SECRET}']",
        f"[mqtt.password]\nvalue = '{SECRET}'",
        f"[mqtt]\npassword = '{SECRET}",
        f"[mqtt]\npassword = {SECRET}",
        f"mqtt = 'mqtts://node-07:{SECRET}@broker.example'",
        f"[mqtt]\ntls = '{SECRET}'",
        f"[mqtt]\nhost = 'mqtts://node-07:{SECRET}@broker.example'",
        f"[mqtt]\nhost = 'node-07:{SECRET}@broker.example'",
        f"[mqtt]\nusername = ['node-07', '{SECRET}']",
        f"[mqtt]\npassword = '{SECRET}'\nport = 'x'",
        f"[mqtt.tls]\nkey_file = '''-----BEGIN PRIVATE KEY-----\n{SECRET}\n'''",
        f"[mqtt.tls]\nenabled = true\ncert_file = '/c'\nkey_file = '''-----BEGIN PRIVATE KEY-----\n{SECRET}\n'''",
    ],
)
def test_a_wrong_configuration_shows_no_secret(tmp_path: Path, text: str) -> None:
    """Where a password stands in the wrong place or form, the error names the key and not the value."""
    file = tmp_path / "agent.toml"
    file.write_text(text, encoding="utf-8")

    with pytest.raises(ConfigError) as caught:
        broker_options(load_config(file, {}).mqtt, {})

    assert SECRET not in "".join(traceback.format_exception_only(caught.value))


def test_a_traceback_shows_no_secret(tmp_path: Path) -> None:
    """Not even one that prints what the variables hold, as some tools do."""
    config, environment = with_secret("inline", tmp_path, f'host = "{HOST}"\nport = {free_port()}\n')
    effective = load_config(config, environment)
    options = broker_options(effective.mqtt, environment)

    with pytest.raises(AgentError) as caught:
        Connection(options, "node-07")

    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    text = "".join(shown.format())
    assert "options = BrokerOptions(" in text
    assert SECRET not in text + repr(effective) + str(effective) + repr(options) + effective.model_dump_json()


def test_no_command_takes_a_secret() -> None:
    """What stands on a command line stands in the list of processes."""
    parsers: list[argparse.ArgumentParser] = []
    for parser in PARSERS.values():
        parsers += [parser, *commands_of(parser).values()]
    options = {option for parser in parsers for action in parser._actions for option in action.option_strings}

    assert "--config" in options
    assert not any(word in option for option in options for word in ("pass", "secret", "token", "key", "user"))


# Nobody in


def listening(pid: int) -> list[str]:
    """What a process listens on: TCP, UDP and Unix sockets that take connections or datagrams."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    found = []
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for row in Path(f"/proc/{pid}/net/{kind}").read_text(encoding="ascii").splitlines()[1:]:
            words = row.split()
            if words[9] in inodes and (words[3] == "0A" or (kind.startswith("udp") and words[3] == "07")):
                found.append(f"{kind} {words[1]}")
    for row in Path(f"/proc/{pid}/net/unix").read_text(encoding="utf-8").splitlines()[1:]:
        words = row.split()
        if words[6] in inodes and int(words[3], 16) & 0x10000:
            found.append(f"unix {words[7:]}")
    return found


def test_the_agent_listens_on_nothing(urbansound: CommandFactory, make_broker: BrokerFactory, tmp_path: Path) -> None:
    """By default nobody can connect to a node; the broker that it is connected to can be seen in the same way."""
    broker = make_broker(passwords={"node-07": SECRET}).start()
    config, environment = with_secret("file", tmp_path, f'host = "{HOST}"\nport = {broker.port}\n')
    agent = urbansound("run", "--config", config, more=environment)
    agent.wait_for_log("mqtt.connected")
    agent.wait_for_log("capture.waiting")

    assert listening(agent.process.pid) == []
    assert broker._process is not None
    assert listening(broker._process.pid) == [f"tcp 0100007F:{broker.port:04X}"]


# No sound out


def test_sound_reaches_no_file(
    sound_server: SoundServer, broker: Broker, subscribe: SubscriberFactory, tmp_path: Path
) -> None:
    """An agent that hears opens no file to write but its outbox and the hours, even where it logs all it can."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed (apt-get install strace)")
    subscriber = subscribe(broker.options())
    config, trace = tmp_path / "agent.toml", tmp_path / "trace"
    config.write_text(
        f'[node]\nid = "node-07"\n[audio]\ndevice = "{sound_server.device}"\n[log]\nlevel = "debug"\n'
        f'[mqtt]\nhost = "{HOST}"\nport = {broker.port}\n[spool]\npath = "{tmp_path}/spool.sqlite"\n',
        encoding="utf-8",
    )
    # -D: the agent is our child, and the tracer its.
    tracer = ["strace", "-D", "-f", "-e", "trace=open,openat,creat", "-o", str(trace)]
    with subprocess.Popen(
        [*tracer, sys.executable, "-m", "agent.cli", "run", "--config", str(config)],
        cwd=REPOSITORY,
        env=sound_server.environment | {"PYTHONDONTWRITEBYTECODE": "1"},
        stderr=subprocess.DEVNULL,
    ) as agent:
        try:
            subscriber.wait_for(1, f"{NODE}/health")  # what it hears is judged
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(60) == 143
        finally:
            agent.kill()
    ended = re.compile(rf"^{agent.pid} +\+\+\+ exited", re.MULTILINE)  # a short process id is padded
    wait_until(lambda: ended.search(trace.read_text(encoding="utf-8")), "the end of the trace")

    opened = re.findall(r'"([^"]+)", [A-Z_|]*O_(?:WRONLY|RDWR)[^)]*\) = \d', trace.read_text(encoding="utf-8"))
    files = {name for name in opened if not name.startswith(("/dev/", "/proc/"))}  # /dev/shm is memory
    assert {name.partition(".sqlite")[0] for name in files} == {f"{tmp_path}/spool", f"{tmp_path}/coverage"}


# Data, never code

CODE = {"eval", "exec", "compile", "__import__", "execfile"}
LOADERS = {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "yaml", "runpy", "subprocess"}
TRIES_IN_A_PROCESS_OF_ITS_OWN = {"accelerator": {"subprocess"}}  # `python -m agent.accelerator`, without a shell
CALLS = {"os.system", "os.popen", "os.execv", "os.execvp", "os.spawnv", "np.load", "importlib.import_module"}


@pytest.mark.parametrize("file", sorted((REPOSITORY / "agent").glob("*.py")), ids=lambda file: file.stem)
def test_nothing_that_is_read_is_run(file: Path) -> None:
    """The agent has no way to make code of a model or of a configuration, and starts no program but itself."""
    used = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            used |= {alias.name.split(".")[0] for alias in node.names} & LOADERS
        elif isinstance(node, ast.ImportFrom):
            used |= {str(node.module).split(".")[0]} & LOADERS
        elif isinstance(node, ast.Name):
            used |= {node.id} & CODE
        elif isinstance(node, ast.Attribute):
            used |= {ast.unparse(node)} & CALLS
        elif isinstance(node, ast.keyword):
            used |= {str(node.arg)} & {"allow_pickle", "shell"}

    assert used - TRIES_IN_A_PROCESS_OF_ITS_OWN.get(file.stem, set()) == set()


def test_a_folder_that_one_stands_in_is_no_code(judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the agent tries in a process of its own is the agent, not what is called so in the current folder."""
    ran = tmp_path / "ran"
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "__init__.py").write_text(f"open({str(ran)!r}, 'w')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    trial = try_in_a_process(Device("gpu"), judge.model, streaming=True, cpu_streaming=True)

    assert trial.device == Device("gpu")
    assert not ran.exists()


@pytest.mark.parametrize("name", ["../embedding.tflite", "/etc/passwd", "sub/embedding.tflite", ".."])
def test_a_card_names_files_of_its_own_folder_alone(tmp_path: Path, name: str) -> None:
    """A model's card leads the agent to no other file of the node."""
    folder = shutil.copytree(DEFAULT_MODEL, tmp_path / "model")
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    card["embedding"]["file"] = name
    (folder / "model.json").write_text(json.dumps(card), encoding="utf-8")

    with pytest.raises(AgentError, match=r"embedding\.file"):
        load_model_folder(folder)
