"""Promises of `agent.home_assistant`: a device whose entities follow what the agent sends, and only news.

Templates are rendered here by the engine that Home Assistant uses, on messages as they are sent.
"""

import json
import re
from dataclasses import replace
from typing import Any, get_args

import jinja2
import pytest

from agent.home_assistant import LATE_S, discovery, identifier
from agent.liveness import State
from agent.wire import Topics
from tests.test_messages import END, START, TOPICS, sent, teller

LABELS = ("car_horn", "siren")


def announced(topics: Topics = TOPICS, **changes: Any) -> tuple[str, dict[str, Any]]:  # noqa: ANN401  whatever `discovery` takes
    arguments: dict[str, Any] = {
        "prefix": "homeassistant",
        "source": "street",
        "labels": LABELS,
        "told": LABELS,
        "update_interval_s": 10.0,
        "level_interval_s": 60,
        "calibrated": True,
        "agent_version": "0.1.0",
        "model": "l3 1",
    }
    topic, payload = discovery(topics, **arguments | changes)
    return topic, json.loads(payload)


def shown(entity: dict[str, Any], payload: bytes) -> str:
    """What an entity makes of a message; nothing where it stays as it is."""
    template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(entity["value_template"])
    return template.render(value=payload.decode(), value_json=json.loads(payload))


def example(schema: str) -> bytes:
    """What `docs/mqtt.md` shows, which the agent would send like that."""
    from tests.test_docs import DOCS, blocks_of

    return next(block for block in blocks_of(DOCS / "mqtt.md", "json") if schema in block).encode()


def test_a_node_is_a_device_with_the_topics_that_it_speaks_on() -> None:
    """Under Home Assistant's prefix, by an id of the node's own; online and offline as `status` says."""
    topic, device = announced(Topics("city/noise", "node-07"))

    assert topic == "homeassistant/device/city_noise_node-07/config"
    assert device["device"]["identifiers"] == ["city_noise_node-07"]
    assert device["device"]["name"] == "node-07"
    assert device["origin"]["name"] == "urbansound"
    topics = Topics("city/noise", "node-07")
    assert device["availability_topic"] == topics.status
    assert {entity["state_topic"] for entity in device["components"].values()} == {
        topics.event("street"),
        topics.level("street"),
        topics.health,
    }


def test_entities_are_told_apart_over_all_nodes() -> None:
    """Ids are unique, of the node, and of what Home Assistant allows."""
    ids = [
        entity["unique_id"]
        for node in ("node-07", "node-08")
        for entity in announced(Topics("urbansound", node))[1]["components"].values()
    ]

    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", one) for one in ids)
    assert identifier(TOPICS) == "urbansound_node-07"


def test_a_class_is_on_while_its_event_is_open() -> None:
    """Events of other classes leave it as it is."""
    components = announced()[1]["components"]
    speaker = teller()
    messages = [sent(speaker.tell(event).payload(7), queued_s=0.2) for event in (START, END)]

    assert [shown(components["hears_siren"], message) for message in messages] == ["ON", "OFF"]
    assert [shown(components["hears_car_horn"], message) for message in messages] == ["", ""]
    assert components["hears_siren"]["off_delay"] == 30


def test_a_class_of_any_name_has_its_entity() -> None:
    """Classes of one's own may have quotes and signs in them."""
    label = 'Müller\'s "truck" {{ 1 }}'
    event = teller().tell(replace(START, label=label)).payload(1)

    entity = announced(labels=[label], told=[label])[1]["components"][f"hears_{label}"]

    assert shown(entity, sent(event)) == "ON"


def test_a_class_that_is_not_told_has_no_entity() -> None:
    """What is nothing but its platform is removed, if it was there before."""
    components = announced(told=["siren"])[1]["components"]

    assert components["hears_car_horn"] == {"platform": "binary_sensor"}
    assert len(components["hears_siren"]) > 1


def test_an_event_is_handed_on_as_it_is() -> None:
    """Its types are those of the entity, and all else becomes attributes."""
    entity = announced()[1]["components"]["sound_event"]
    message = sent(teller().tell(START).payload(7), queued_s=0.0)

    assert shown(entity, message) == message.decode()
    assert json.loads(message)["event_type"] in entity["event_types"]


@pytest.mark.parametrize("name", ["sound_event", "hears_siren"])
def test_what_is_no_news_changes_nothing(name: str) -> None:
    """An event that waited for the network, and one of a recording: Home Assistant would take it for now."""
    entity = announced()[1]["components"][name]

    assert shown(entity, sent(teller().tell(START).payload(7), queued_s=LATE_S - 1)) != ""
    assert shown(entity, sent(teller().tell(START).payload(7), queued_s=LATE_S)) == ""
    assert shown(entity, sent(teller(replayed=True).tell(START).payload(7), queued_s=0.0)) == ""
    assert shown(entity, sent(teller().tell(START).payload(7), queued_s=None)) != ""  # nobody knows


def test_levels_are_sensors_in_their_unit() -> None:
    """Of sound pressure once the microphone is calibrated; else it is said in the name what they are relative to."""
    calibrated, relative = (announced(calibrated=known)[1]["components"] for known in (True, False))
    message = example("level/1")

    assert {name: shown(calibrated[name], message) for name in ("laeq", "lafmax", "la90")} == {
        "laeq": "58.4",
        "lafmax": "75.9",
        "la90": "50.7",
    }
    assert [calibrated["laeq"][key] for key in ("name", "unit_of_measurement")] == ["LAeq", "dBA"]
    assert [relative["laeq"][key] for key in ("name", "unit_of_measurement")] == ["LAeq of full scale", "dB"]


def test_a_level_of_an_hour_may_be_an_hour_old() -> None:
    """It is news until the next; and unknown after three that did not come."""
    minutes, hours = (announced(level_interval_s=each)[1]["components"]["laeq"] for each in (60, 3600))
    message = json.dumps(json.loads(example("level/1")) | {"queued_s": 600.0}).encode()

    assert (shown(minutes, message), shown(hours, message)) == ("", "58.4")
    assert (minutes["expire_after"], hours["expire_after"]) == (180, 10_800)


def test_diagnostics_are_those_of_health() -> None:
    """Each state of liveness is an option."""
    components = announced()[1]["components"]
    message = example("health/1")

    shown_now = [shown(components[name], message) for name in ("liveness", "coverage", "queued")]
    assert shown_now == ["silent", "98.33", "0"]
    assert components["liveness"]["options"] == list(get_args(State))
    assert all(components[name]["entity_category"] == "diagnostic" for name in ("liveness", "coverage", "queued"))
