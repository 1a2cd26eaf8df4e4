"""Promises of `agent.values`: what flows between the stages stays as it was sent."""

import dataclasses
import inspect
import pickle

import numpy as np
import pytest

from agent import values
from agent.values import AudioBlock, EventRule, SoundEvent

KINDS = [kind for _, kind in inspect.getmembers(values, dataclasses.is_dataclass)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_value_cannot_be_changed(kind: type) -> None:
    """What was handed on stays as it was: a stage cannot change what another stage holds."""
    value: object = object.__new__(kind)
    name = dataclasses.fields(kind)[0].name

    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, None)
    assert not hasattr(value, "__dict__")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_field_of_a_value_is_described(kind: type) -> None:
    """Whoever reads a value's docstring knows what each of its fields means."""
    described = str(kind.__doc__)

    assert [field.name for field in dataclasses.fields(kind) if f"{field.name}:" not in described] == []


@pytest.mark.parametrize("kind", [value for value in KINDS if value is not AudioBlock], ids=lambda kind: kind.__name__)
def test_sound_goes_no_further_than_the_front_end(kind: type) -> None:
    """No value right of the front end has a place for sound: what people say cannot leave the sensor."""
    assert "samples" not in {field.name for field in dataclasses.fields(kind)}


def test_values_can_be_told_apart_and_sent() -> None:
    """Two equal events are equal, and an event survives being copied to another process."""
    event = SoundEvent(0, "start", "siren", 16_000, None, 32_000, 0.9, 0.8)

    assert pickle.loads(pickle.dumps(event)) == event
    assert event != dataclasses.replace(event, state="update")


def test_the_optional_fields_mean_nothing_special_happened() -> None:
    """A block without a loss and an open event are the short forms."""
    assert AudioBlock(np.zeros(1, np.float32), 0).lost_before == 0
    assert SoundEvent(0, "start", "siren", 0, None, 0, 0.9, 0.8).end_reason is None


@pytest.mark.parametrize(("on", "is_silent"), [(0.99, False), (1.0, True)])
def test_a_rule_that_nothing_reaches_is_silent(on: float, is_silent: bool) -> None:
    """An `on` of 1 says that a class is not told."""
    assert EventRule(on, 0.3, 0.1, 0.5, 60.0, 1.0).is_silent is is_silent
