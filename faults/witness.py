"""What reached a subscriber: the only thing that counts in the end.

In: the broker. Out: all numbered messages (events, gaps, levels) in the order in which they came, and what the node
said of its own health. The session is kept by the broker over lost connections; paho's own thread does the work.
"""

import json
import threading
import time
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from faults.children import HOST, CampaignError

SESSION_S = 86_400


class Witness:
    """Remembers every message on the topics of a node.

    Args:
        port: of the broker.
        name: of its session.

    Raises:
        CampaignError: there is no broker.
    """

    def __init__(self, port: int, name: str) -> None:
        self.told: list[dict[str, Any]] = []
        self.health: list[tuple[float, dict[str, Any]]] = []  # monotonic time of arrival
        self._subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv5)
        self._client.reconnect_delay_set(min_delay=1, max_delay=1)
        self._client.on_connect = self._subscribe
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_disconnect = lambda *_: self._subscribed.clear()
        self._client.on_message = self._remember
        kept = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        kept.SessionExpiryInterval = SESSION_S
        self._client.connect_async(HOST, port, keepalive=60, clean_start=False, properties=kept)
        self._client.loop_start()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Until what is published from now on comes here.

        Raises:
            CampaignError: it does not get that far.
        """
        if not self._subscribed.wait(30.0):
            raise CampaignError("the witness found no broker")

    def close(self) -> None:
        """Listen no more."""
        self._client.disconnect()
        self._client.loop_stop()

    def _subscribe(self, *_: object) -> None:
        self._client.subscribe("urbansound/#", qos=1)

    def _remember(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        came_s = time.monotonic()
        if message.topic.endswith(("/event", "/gap", "/level")):
            self.told.append(json.loads(message.payload))
        elif message.topic.endswith("/health"):
            self.health.append((came_s, json.loads(message.payload)))
