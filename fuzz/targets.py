"""What is fuzzed: each target takes bytes and hands them to a parser of the agent, as the agent does.

In: bytes. Out: nothing; an exception that leaves a target is a defect. What the agent names (an `AgentError`) stays
inside: it is one line for a person and an exit code.
"""

import contextlib
import itertools
import logging
import os
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from agent import messages, wire
from agent.accounts import Accounts
from agent.app import Judge
from agent.broker import BrokerOptions, Connection, Publication, is_topic
from agent.clock import Reckoning, Timeline, WallClock
from agent.config import Config, load_config
from agent.errors import AgentError
from agent.frontend import FrontEnd
from agent.hours import Hours, read_hours
from agent.model_card import CARD_NAME, DEFAULT_MODEL, ModelCard, load_model_folder
from agent.outbox import Outbox
from agent.printout import message_line
from agent.recordings import start_time_from_name
from agent.stop import Stop
from agent.timesheet import as_text, hour_rows
from agent.values import AudioBlock, Gap
from agent.wavfile import open_recording
from fuzz.seeds import BOOT, NOW_NS, TOPIC

Target = Callable[[bytes], None]

HOST = "127.0.0.1"
MEMORY = Path("/dev/shm")  # files of a moment, that no disk has to write
PACKETS_AT_MOST = 50
BLOCKS_AT_MOST = 20
RATE_HZ = 1000


class Targets:
    """The targets, by name, and what they need: a folder, a broker that says what it is told to.

    Use as a context.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        logging.disable(logging.CRITICAL)
        where = MEMORY if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) else None
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-", dir=where)))
        self.by_name: dict[str, Target] = {
            "configuration": self.configuration,
            "recording": self.recording,
            "name": self.name,
            "card": self.card,
            "packets": self.packets,
            "message": self.message,
            "spool": self.spool,
            "coverage": self.coverage,
        }

    def __enter__(self) -> "Targets":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        logging.disable(logging.NOTSET)

    def configuration(self, data: bytes) -> None:
        """A TOML file, and after the first zero byte the environment: `NAME=value`, parted by zero bytes."""
        text, *variables = data.split(b"\0")
        file = self._written("agent.toml", text)
        pairs = (variable.decode("utf-8", "surrogateescape").partition("=") for variable in variables)
        with contextlib.suppress(AgentError):
            config = load_config(file, {name.strip(): value for name, _, value in pairs})
            config.model_dump_json(exclude={"mqtt": {"password"}})

    def recording(self, data: bytes) -> None:
        """A file that says that it is a recording."""
        file = self._written("recording", data)
        with contextlib.suppress(AgentError), open_recording(file) as recording:
            for block in itertools.islice(recording.blocks(recording.long_block), BLOCKS_AT_MOST):
                assert block.samples.ndim == 1

    def name(self, data: bytes) -> None:
        """The name of a recording."""
        start_time_from_name(Path(os.fsdecode(data).replace("\0", "")))

    def card(self, data: bytes) -> None:
        """A `model.json`; if it is one, a front end is made of its numbers, and hears a tenth of a second."""
        folder = self._folder / "model"
        if not folder.is_dir():
            folder.mkdir()
            for file in DEFAULT_MODEL.glob("*.tflite"):
                (folder / file.name).write_bytes(file.read_bytes())
        self._written(f"model/{CARD_NAME}", data)
        with contextlib.suppress(AgentError):
            model = load_model_folder(folder)
            _hear(model.card)

    def packets(self, data: bytes) -> None:
        """The first byte: 5 for MQTT 5, or 3.1.1; then all that the broker ever says."""
        broker = self._broker()
        broker.says(data[1:])
        options = BrokerOptions(host=HOST, port=broker.port, protocol="5" if data[:1] == b"\x05" else "3.1.1")
        with contextlib.suppress(AgentError):
            connection = Connection(options, "node", will=Publication("status", b"offline", retain=True))
            try:
                for number in range(PACKETS_AT_MOST):
                    connection.publish(Publication(TOPIC, b"%d" % number))
                    connection.wait(1.0)
            finally:
                connection.close()

    def message(self, data: bytes) -> None:
        """What somebody published where events are published; and what lies in a spool, as it is sent."""
        message_line(TOPIC, wire.read_message(data))
        messages.finished(data, queued_s=1.0, boots={BOOT: 1.7e9})

    def spool(self, data: bytes) -> None:
        """A spool file, found at the start of the agent: events are ended, messages sent, appended and forgotten."""
        folder = self._folder / "spool"
        for file in folder.glob("*") if folder.is_dir() else ():
            file.unlink()
        file = self._written("spool/spool.sqlite", data)
        config = Config.model_validate({"spool": {"path": str(file), "max_messages": 100}})
        with contextlib.suppress(AgentError):
            outbox = Outbox(config, self._judge(), environment={}, stop=Stop())
            try:
                client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
                waiting = outbox.spool.oldest(20)
                for message in waiting:
                    payload = outbox._finished(message)
                    if payload is not None and is_topic(message.topic):
                        client.publish(message.topic, payload, qos=1)
                outbox.spool.append(TOPIC, lambda seq: b"%d" % seq)
                outbox.spool.forget([message.seq for message in waiting])
            finally:
                outbox.spool.close()
                outbox.publisher._waker.close()

    def coverage(self, data: bytes) -> None:
        """A coverage file, which a command reads and the sensor goes on with: it tells the gap since the last run."""
        folder = self._folder / "coverage"
        for old in folder.glob("*") if folder.is_dir() else ():
            old.unlink()
        file = self._written("coverage/coverage.sqlite", data)
        with contextlib.suppress(AgentError):
            list(as_text(hour_rows(read_hours(file), now_ns=NOW_NS, newest=2160)))

        def tell(gap: Gap, reckoning: Reckoning) -> None:
            topics = wire.Topics("urbansound", "node-07")
            messages.told_gap(gap, topics=topics, source="street", reckoning=reckoning)[1](1)

        clock = WallClock(wall=lambda: NOW_NS / 1e9, monotonic=lambda: 1.0, synced=lambda: True, boot=BOOT)
        reckoning, hours = clock.reckon(), Hours(file)
        accounts = Accounts(hours, tell, now_s=1.0, reckoning=reckoning)
        accounts.begin(RATE_HZ)
        timeline = Timeline(RATE_HZ, clock)
        block = AudioBlock(np.zeros(RATE_HZ, np.float32), 0)
        accounts.lose(block, "device", timeline)
        accounts.hear(block, timeline)
        accounts.look(3.0, None, away=False)
        accounts.finish(4.0)

    def _written(self, name: str, data: bytes) -> Path:
        file = self._folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)
        return file

    def _broker(self) -> "Parrot":
        if not hasattr(self, "_parrot"):
            self._parrot = self._stack.enter_context(contextlib.closing(Parrot()))
        return self._parrot

    def _judge(self) -> Judge:
        if not hasattr(self, "_the_judge"):
            self._the_judge = Judge(Config())
        return self._the_judge


def _hear(card: ModelCard) -> None:
    front_end = FrontEnd(card.front_end, capture_rate_hz=48_000, window_hop_s=0.1)
    list(front_end.push(AudioBlock(np.zeros(4800, np.float32), 0)))


class Parrot:
    """A broker that says what it was told to, whatever it hears, and hangs up."""

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._sayings: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="parrot", daemon=True)
        self._thread.start()

    def says(self, data: bytes) -> None:
        """What it will say to the next one who calls."""
        self._sayings.put(data)

    def close(self) -> None:
        """Call it no more."""
        self._sayings.put(None)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while (data := self._sayings.get()) is not None:
            connection, _ = self._listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass
