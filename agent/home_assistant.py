"""What Home Assistant must be told to show a node as a device: its events, its levels, and whether it hears.

In: who the node is and what it tells. Out: one retained message for MQTT discovery, which names the topics of `wire`
and how to read them. Pure; called on the publisher thread.

Home Assistant dates by arrival. So what arrives late, and recordings, change no entity: there they would be news.

Source: home-assistant.io, "MQTT: discovery messages and availability" (device discovery, from 2024.12 on).
"""

import json
from collections.abc import Sequence
from typing import Any, get_args

from agent.liveness import State
from agent.values import EventState
from agent.wire import HEALTH_INTERVAL_S, Topics

LATE_S = 60.0
MISSED = 3  # times: then a value is not known any more


def discovery(
    topics: Topics,
    *,
    prefix: str,
    source: str,
    labels: Sequence[str],
    told: Sequence[str],
    update_interval_s: float,
    level_interval_s: float,
    calibrated: bool,
    agent_version: str,
    model: str,
) -> tuple[str, bytes]:
    """The topic and the JSON.

    Args:
        topics: where the node speaks.
        prefix: Home Assistant's own, for discovery.
        source: the microphone.
        labels: all classes of the model but its background.
        told: those that may be told; the others have no entity, or no longer.
        update_interval_s: between two messages about an open event.
        level_interval_s: between two levels.
        calibrated: whether levels are sound pressure levels.
        agent_version: of this program.
        model: name and version of the model.
    """
    device = identifier(topics)
    entities = {
        "sound_event": _events(topics.event(source)),
        **{
            f"hears_{label}": _label(topics.event(source), label, update_interval_s, is_told=label in told)
            for label in labels
        },
        **{
            name: _level(topics.level(source), measure, field, level_interval_s, calibrated=calibrated)
            for name, measure, field in (
                ("laeq", "LAeq", "laeq_db"),
                ("lafmax", "LAFmax", "lafmax_db"),
                ("la90", "LA90", "la90_db"),
            )
        },
        **_diagnostics(topics.health),
    }
    components = {
        name: entity | ({"unique_id": f"{device}_{name}"} if len(entity) > 1 else {})
        for name, entity in entities.items()
    }
    message = {
        "device": {"identifiers": [device], "name": topics.node, "model": model, "sw_version": agent_version},
        "origin": {"name": "urbansound", "sw_version": agent_version},
        "availability_topic": topics.status,
        "qos": 1,
        "components": components,
    }
    return f"{prefix}/device/{device}/config", json.dumps(message, separators=(",", ":")).encode()


def identifier(topics: Topics) -> str:
    """What tells this node from others in Home Assistant: letters, digits, - and _.

    >>> identifier(Topics("city/noise", "node-07"))
    'city_noise_node-07'
    """
    return f"{topics.prefix}_{topics.node}".replace("/", "_")


def _events(topic: str) -> dict[str, Any]:
    return {
        "platform": "event",
        "name": "Sound event",
        "icon": "mdi:waveform",
        "state_topic": topic,
        "event_types": list(get_args(EventState)),
        "value_template": _where(_is_news(LATE_S), "{{ value }}"),
    }


def _label(topic: str, label: str, update_interval_s: float, *, is_told: bool) -> dict[str, Any]:
    """On while an event is open; a component that is nothing but its platform is removed."""
    if not is_told:
        return {"platform": "binary_sensor"}
    state = "{{ 'OFF' if value_json.event_type == 'end' else 'ON' }}"
    return {
        "platform": "binary_sensor",
        "name": label.replace("_", " ").capitalize(),
        "device_class": "sound",
        "state_topic": topic,
        "value_template": _where(f"value_json.label == {json.dumps(label)} and {_is_news(LATE_S)}", state),
        "off_delay": round(MISSED * update_interval_s),  # where its end waits in the node, for the network is away
    }


def _level(topic: str, measure: str, field: str, interval_s: float, *, calibrated: bool) -> dict[str, Any]:
    return {
        "platform": "sensor",
        "name": measure if calibrated else f"{measure} of full scale",
        "device_class": "sound_pressure",
        "state_class": "measurement",
        "unit_of_measurement": "dBA" if calibrated else "dB",
        "suggested_display_precision": 1,
        "state_topic": topic,
        "value_template": _where(_is_news(max(LATE_S, interval_s)), f"{{{{ value_json.{field} }}}}"),
        "expire_after": round(MISSED * interval_s),
    }


def _is_news(late_s: float) -> str:
    return f"not value_json.replayed | default(false) and value_json.queued_s | default(0) < {late_s:g}"


def _where(condition: str, text: str) -> str:
    """A template of a value, or of nothing: then the entity stays as it is."""
    return f"{{% if {condition} %}}{text}{{% endif %}}"


def _diagnostics(topic: str) -> dict[str, dict[str, Any]]:
    common = {
        "platform": "sensor",
        "entity_category": "diagnostic",
        "state_topic": topic,
        "expire_after": round(MISSED * HEALTH_INTERVAL_S),
    }
    return {
        "liveness": common
        | {
            "name": "Liveness",
            "icon": "mdi:ear-hearing",
            "device_class": "enum",
            "options": list(get_args(State)),
            "value_template": "{{ value_json.liveness.state }}",
        },
        "coverage": common
        | {
            "name": "Coverage of this hour",
            "icon": "mdi:shield-check",
            "state_class": "measurement",
            "unit_of_measurement": "%",
            "suggested_display_precision": 1,
            "value_template": "{{ value_json.coverage_hour_percent }}",
        },
        "queued": common
        | {
            "name": "Messages waiting",
            "icon": "mdi:tray-full",
            "state_class": "measurement",
            "value_template": "{{ value_json.queued }}",
        },
    }
