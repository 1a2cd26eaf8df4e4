"""A real mosquitto on a loopback port, as a pytest plugin, and a subscriber that remembers what it got."""

import contextlib
import json
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from agent.broker import BrokerOptions
from agent.credentials import tls_context

DEADLINE_S = 20.0
HOST = "127.0.0.1"


def wait_until(true: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait for the thing itself, and fail where it does not come."""
    until = time.monotonic() + deadline_s
    while not true():
        if time.monotonic() > until:
            pytest.fail(f"waited {deadline_s:g} s for {what}")
        time.sleep(0.005)


@dataclass(frozen=True)
class Certificates:
    """A certificate authority of our own, a broker's certificate for localhost, and a client's for CN=node-07."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def make_certificates(folder: Path) -> Certificates:
    folder.mkdir(parents=True)
    made = Certificates(*(folder / name for name in ("ca.crt", "server.crt", "server.key", "client.crt", "client.key")))
    ca_key = folder / "ca.key"
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _openssl(
        *("req", "-x509", *new_key, "-days", "2", "-keyout", ca_key, "-out", made.ca, "-subj", "/CN=test CA"),
        *("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    for name, certificate, key, use in (
        ("localhost", made.server, made.server_key, "serverAuth\nsubjectAltName=DNS:localhost,IP:127.0.0.1"),
        ("node-07", made.client, made.client_key, "clientAuth"),
    ):
        request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
        extensions.write_text(f"basicConstraints=CA:FALSE\nextendedKeyUsage={use}\n")
        _openssl("req", *new_key, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        _openssl(
            *("x509", "-req", "-in", request, "-CA", made.ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2"),
            *("-out", certificate, "-extfile", extensions),
        )
    return made


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)


class Broker:
    """One mosquitto, which can be stopped, killed, frozen, and started again on the same port."""

    def __init__(
        self,
        folder: Path,
        *,
        passwords: dict[str, str] | None = None,
        acl: str | None = None,
        certificates: Certificates | None = None,
        require_certificate: bool = False,
        hangs_up_on_denial: bool = False,
        port: int | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.host = HOST
        self.port = port or free_port()
        self.log = folder / "mosquitto.log"
        self._configuration = folder / "mosquitto.conf"
        self._process: subprocess.Popen[bytes] | None = None
        self._certificates = certificates
        lines = [
            "user root",  # else a broker that root starts may not read the test's folder
            f"listener {self.port} {HOST}",
            "persistence false",
            "log_dest stderr",
            f"max_queued_messages {0 if hangs_up_on_denial else 100_000}",  # so mosquitto 2.0.11 behaves with 0
            "max_inflight_messages 0",
            f"allow_anonymous {'false' if passwords else 'true'}",
        ]
        if passwords:
            file = folder / "passwords"
            file.write_text("".join(f"{name}:{password}\n" for name, password in passwords.items()))
            subprocess.run(["mosquitto_passwd", "-U", file], check=True, capture_output=True, timeout=30)
            lines.append(f"password_file {file}")
        if acl is not None:
            self._acl = folder / "acl"
            self._acl.write_text(acl)
            lines.append(f"acl_file {self._acl}")
        if certificates is not None:
            lines += [
                f"cafile {certificates.ca}",
                f"certfile {certificates.server}",
                f"keyfile {certificates.server_key}",
                f"require_certificate {'true' if require_certificate else 'false'}",
                f"use_identity_as_username {'true' if require_certificate else 'false'}",
            ]
        self._configuration.write_text("\n".join(lines) + "\n")

    def options(self, **changes: Any) -> BrokerOptions:  # noqa: ANN401  any of the options
        """How to reach it."""
        if self._certificates is not None and "tls" not in changes:
            changes["tls"] = tls_context(self._certificates.ca, None, None)
        return replace(BrokerOptions(host=self.host, port=self.port, keepalive_s=5), **changes)

    def start(self) -> "Broker":
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["mosquitto", "-c", str(self._configuration)], stdin=subprocess.DEVNULL, stderr=log
            )
        wait_until(self._answers, "mosquitto to listen")
        return self

    def stop(self) -> None:
        """An orderly end."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """The end without notice."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """On the same port; it remembers nothing."""
        self.kill()
        self.start()

    def change_acl(self, acl: str) -> None:
        """From now on. Connections stay."""
        assert self._process is not None
        self._acl.write_text(acl)
        self._process.send_signal(signal.SIGHUP)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            pytest.fail(f"mosquitto ended with {self._process.returncode}: {self.log.read_text()}")
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=1.0):
            return True
        return False

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=DEADLINE_S)
            self._process = None


class Subscriber:
    """Remembers every message.

    With QoS 0: mosquitto writes to us before it acknowledges to the sender, so that killing it loses nothing that the
    sender was told it has.
    """

    def __init__(
        self,
        options: BrokerOptions,
        topic_filter: str = "#",
        on_message: Callable[[paho.MQTTMessage], None] = lambda _: None,
    ) -> None:
        self.messages: list[paho.MQTTMessage] = []
        self.ready = threading.Event()
        self._filter = topic_filter
        self._also = on_message
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.username_pw_set(options.username, options.password)
        if options.tls is not None:
            self._client.tls_set_context(options.tls)
        self._client.reconnect_delay_set(min_delay=1, max_delay=1)
        self._client.on_connect = self._subscribe
        self._client.on_subscribe = lambda *_: self.ready.set()
        self._client.on_disconnect = lambda *_: self.ready.clear()
        self._client.on_message = self._remember
        self._client.connect_async(options.host, options.port, keepalive=60)
        self._client.loop_start()
        self.wait_ready()

    def _subscribe(self, *_: object) -> None:
        self._client.subscribe(self._filter, qos=0)

    def _remember(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        self.messages.append(message)
        self._also(message)

    def wait_ready(self) -> None:
        """Until what is published from now on comes here."""
        assert self.ready.wait(DEADLINE_S), "the subscriber found no broker"

    def payloads(self, topic: str) -> list[bytes]:
        """What came on a topic, in order."""
        return [bytes(message.payload) for message in self.messages if message.topic == topic]

    def wait_for(self, count: int, topic: str) -> list[bytes]:
        """The first `count` messages on a topic."""
        wait_until(
            lambda: len(self.payloads(topic)) >= count,
            f"{count} messages on {topic}",
        )
        return self.payloads(topic)

    def wait_for_seqs(self, seqs: set[int], topic: str) -> list[int]:
        """Until each of these `seq`s has come; then all that came, in order."""
        wait_until(lambda: seqs <= set(self.seqs(topic)), f"all of {len(seqs)} messages on {topic}")
        return self.seqs(topic)

    def seqs(self, topic: str) -> list[int]:
        """The `seq` of each message on a topic, in order."""
        return [json.loads(payload)["seq"] for payload in self.payloads(topic)]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def only_pongs(client: socket.socket) -> None:
    """Answer to pings and never acknowledge anything."""
    ping, pong = b"\xc0\x00", b"\xd0\x00"
    while said := client.recv(1000):
        if said.endswith(ping):
            client.sendall(pong)


def at_most(limit: int) -> Callable[[socket.socket], None]:
    """Acknowledge when nothing more comes, and hang up where more than `limit` messages wait for that.

    Reads packets of up to 129 bytes.
    """

    def serve(client: socket.socket) -> None:
        said = b""
        waiting: list[bytes] = []
        while True:
            if waiting and not select.select([client], [], [], 0.05)[0]:
                client.sendall(b"".join(b"\x40\x02" + ticket for ticket in waiting))
                waiting = []
            if not (more := client.recv(10_000)):
                return
            said += more
            while len(said) >= 2 and len(said) >= 2 + said[1]:
                packet, said = said[: 2 + said[1]], said[2 + said[1] :]
                if packet[0] & 0xF0 == 0x30:
                    after_topic = 4 + int.from_bytes(packet[2:4])
                    waiting.append(packet[after_topic : after_topic + 2])
            if len(waiting) > limit:
                client.sendall(b"\xe0\x01\x93")
                return

    return serve


@contextlib.contextmanager
def half_a_broker(welcome: bytes, serve: Callable[[socket.socket], None] = only_pongs) -> Iterator[int]:
    """A port where each client gets this CONNACK, and then what `serve` does."""
    clients: list[socket.socket] = []

    def answer(client: socket.socket) -> None:
        with contextlib.suppress(OSError):  # until the client has gone, or the test is over
            client.recv(1000)
            client.sendall(welcome)
            serve(client)

    def let_in() -> None:
        with contextlib.suppress(OSError):  # until the port is shut
            while True:
                clients.append(server.accept()[0])
                threading.Thread(target=answer, args=clients[-1:]).start()

    with socket.create_server((HOST, 0)) as server:
        threading.Thread(target=let_in).start()
        try:
            yield server.getsockname()[1]
        finally:
            for one in (server, *clients):
                with contextlib.suppress(OSError):  # it may have gone before
                    one.shutdown(socket.SHUT_RDWR)
    for client in clients:
        client.close()


class BrokerFactory(Protocol):
    def __call__(
        self,
        *,
        passwords: dict[str, str] | None = None,
        acl: str | None = None,
        certificates: Certificates | None = None,
        require_certificate: bool = False,
        hangs_up_on_denial: bool = False,
        port: int | None = None,
    ) -> Broker: ...


class SubscriberFactory(Protocol):
    def __call__(
        self,
        options: BrokerOptions,
        topic_filter: str = "#",
        on_message: Callable[[paho.MQTTMessage], None] = lambda _: None,
    ) -> Subscriber: ...


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[BrokerFactory]:
    """Makes brokers, not yet started; ends those that still run."""
    if shutil.which("mosquitto") is None:
        pytest.skip("mosquitto is not installed (apt-get install mosquitto)")
    brokers: list[Broker] = []

    def make(**how: Any) -> Broker:  # noqa: ANN401  what Broker takes
        brokers.append(Broker(tmp_path / f"broker{len(brokers)}", **how))
        return brokers[-1]

    yield make
    for broker in brokers:
        broker.kill()


@pytest.fixture
def broker(make_broker: BrokerFactory) -> Broker:
    """A running mosquitto that lets anyone in."""
    return make_broker().start()


@pytest.fixture
def subscribe() -> Iterator[SubscriberFactory]:
    """Makes subscribers that are ready to hear; closes them."""
    subscribers: list[Subscriber] = []

    def make(*arguments: Any, **more: Any) -> Subscriber:  # noqa: ANN401  what Subscriber takes
        subscribers.append(Subscriber(*arguments, **more))
        return subscribers[-1]

    yield make
    for subscriber in subscribers:
        subscriber.close()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate authority, a broker's certificate and a client's."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed (apt-get install openssl)")
    return make_certificates(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="session")
def other_certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """The same from an authority that nobody knows."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed (apt-get install openssl)")
    return make_certificates(tmp_path_factory.mktemp("tls") / "others")
