"""Promises of `agent.app`: the parts fit the model and the site."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.accelerator import Trial
from agent.app import Judge
from agent.config import Config, InferenceConfig
from agent.errors import ConfigError, ModelError
from agent.litert import Device
from agent.model_card import DEFAULT_MODEL
from agent.values import AudioBlock


def test_every_class_that_is_told_has_a_rule(judge: Judge) -> None:
    """What the street always sounds like is no event, nor is a class that the model is not good enough to tell."""
    assert judge.model.card.background_label == "background"
    assert set(judge.rules) == set(judge.labels) - {"background", "air_conditioner"}
    lower = Judge(Config.model_validate({"events": {"classes": {"air_conditioner": {"on": 0.5}}}}))
    assert set(lower.rules) == set(judge.labels) - {"background"}


def test_recordings_are_judged_by_the_cpu_unless_another_is_named(delegate: str) -> None:
    """`auto` looks for an accelerator only where sound is live; a named one is used in both cases."""
    assert (Judge(Config()).accelerator.name, Judge(Config()).accelerator.reason) == ("cpu", "sound is not live")
    for live in (True, False):
        assert Judge(Config(inference=InferenceConfig(accelerator=delegate)), live=live).accelerator.name == "delegate"


def test_an_accelerator_that_is_missing_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The sensor hears on, on the CPU, and says why."""
    judge = Judge(Config(inference=InferenceConfig(accelerator="/nowhere/libx.so")), live=True)

    assert (judge.accelerator.name, judge.accelerator.refused) == ("cpu", True)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.message == "accelerator.refused asked=/nowhere/libx.so reason=/nowhere/libx.so: there is no such file"


def test_an_accelerator_that_fails_between_its_trial_and_its_use_is_a_warning(
    delegate: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It passed in another process, and cannot be had in this one."""
    trial = Trial(Device("delegate", delegate), None, 0.1, 0.1, 0.1, 0.0)
    monkeypatch.setattr("agent.accelerator.try_in_a_process", lambda *_arguments, **_options: trial)
    monkeypatch.setenv("DELEGATE_FOR_TESTS", "refuse")

    judge = Judge(Config(inference=InferenceConfig(accelerator=delegate)))

    assert (judge.accelerator.name, judge.accelerator.refused) == ("cpu", True)
    assert "no such device is plugged in" in judge.accelerator.reason
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_the_site_says_which_classes_are_told() -> None:
    """With `events.labels` the others are heard and not told, in the order of the model."""
    judge = Judge(Config.model_validate({"events": {"labels": ["siren", "car_horn"]}}))

    assert list(judge.rules) == ["car_horn", "siren"]


def test_the_site_overrides_the_models_numbers(judge: Judge) -> None:
    """A threshold in the configuration wins over the card's, for the class that it names and no other."""
    changed = Judge(Config.model_validate({"events": {"classes": {"siren": {"on": 0.77}}}}))

    assert changed.rules["siren"].on == 0.77
    assert changed.rules["siren"].off == judge.rules["siren"].off
    assert changed.rules["jackhammer"] == judge.rules["jackhammer"]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"inference": {"window_hop_s": 0.03}}, "inference.window_hop_s = 0.03: expected a multiple of the model's"),
        ({"inference": {"window_hop_s": 1.0}}, "inference.window_hop_s = 1.0: expected at most the frames of the"),
        (
            {"inference": {"window_hop_s": 0.05, "form": "streaming"}},
            "inference.form = 'streaming': inference.window_hop_s = 0.05, expected a multiple of the model",
        ),
        ({"events": {"classes": {"sirene": {"on": 0.5}}}}, "events.classes.sirene: unknown class, expected one of"),
        (
            {"events": {"labels": ["siren"], "classes": {"siren": {"on": 1.0}}}},
            "events.labels: siren is not told, expected events.classes.siren.on below 1",
        ),
        (
            {"events": {"labels": ["sirene"]}},
            "events.labels: unknown class 'sirene', expected some of air_conditioner, ",
        ),
        ({"events": {"default": {"on": 0.2, "off": 0.4}}}, "off = 0.4, expected at most on = 0.2"),
    ],
)
def test_what_does_not_fit_the_model_is_said_at_start(sections: dict[str, Any], message: str) -> None:
    """A configuration that is right by itself and wrong for this model stops the agent before it hears anything."""
    with pytest.raises(ConfigError) as caught:
        Judge(Config.model_validate(sections))

    assert message in str(caught.value)


@pytest.mark.parametrize(("window_hop_s", "widest"), [(0.1, 9), (0.2, 4), (0.475, 2), (0.5, 1), (0.95, 1)])
def test_windows_that_lie_as_far_apart_as_may_be_still_touch(window_hop_s: float, widest: int) -> None:
    """The frames of a window of the shipped model are 0.95 s: no more hops than fit there lie between two windows."""
    assert Judge(Config.model_validate({"inference": {"window_hop_s": window_hop_s}})).widest == widest


@pytest.mark.parametrize(
    ("inference", "streams"),
    [
        ({}, True),
        ({"window_hop_s": 0.5}, True),
        ({"form": "streaming"}, True),
        ({"form": "windowed"}, False),
        ({"window_hop_s": 0.05}, False),
    ],
)
def test_the_network_streams_where_it_can(
    monkeypatch: pytest.MonkeyPatch, inference: dict[str, Any], streams: bool
) -> None:
    """By default, wherever the window hop is a whole number of chunks; else each window is heard anew."""
    asked = []
    monkeypatch.setattr("agent.app.Classifier", lambda *_args, streaming, **_kwargs: asked.append(streaming))

    judge = Judge(Config.model_validate({"inference": inference}))

    assert asked == [streams]
    assert judge.forms == ((True, False) if streams and "form" not in inference else (streams,))


def test_where_an_accelerator_hears_windows_the_cpu_streams_after_it(
    delegate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The form that is fastest there is used; when it fails, the CPU does the work in the form that is its own."""
    trial = Trial(Device("delegate", delegate), None, 0.1, 0.1, 0.1, 0.0, streaming=False)
    monkeypatch.setattr("agent.accelerator.try_in_a_process", lambda *_arguments, **_options: trial)
    monkeypatch.setenv("DELEGATE_FOR_TESTS", "30")
    sound = [AudioBlock(np.random.default_rng(0).normal(0, 0.1, 100_000).astype(np.float32), 0)]

    heard = []
    for judge in (Judge(Config(inference=InferenceConfig(accelerator=delegate))), Judge(Config())):
        windows = (window for block in sound for window in judge.stages(16_000).front_end.push(block))
        heard.append(([judge.accelerator.streaming], [judge.classifier.predict(window) for window in windows]))
        heard[-1][0].append(judge.accelerator.streaming)

    (forms, predictions), (_, expected) = heard
    assert forms == [False, True]
    assert len(predictions) > 40  # it failed at the thirtieth
    for one, other in zip(predictions, expected, strict=True):
        np.testing.assert_array_equal(one.embedding, other.embedding)


def test_a_model_without_a_streaming_form_hears_windows(tmp_path: Path) -> None:
    """By default it just works; who asks for streaming is told that there is none."""
    folder = shutil.copytree(DEFAULT_MODEL, tmp_path / "model")
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    del card["streaming"]
    (folder / "model.json").write_text(json.dumps(card), encoding="utf-8")

    Judge(Config.model_validate({"model": {"path": folder}}))
    with pytest.raises(ConfigError, match=r"inference\.form = 'streaming': model l3-edge-us8k has no streaming form"):
        Judge(Config.model_validate({"model": {"path": folder}, "inference": {"form": "streaming"}}))


def test_a_missing_model_folder_is_named(tmp_path: Path) -> None:
    """The message says which folder was looked in, and for what."""
    with pytest.raises(ModelError, match=f"model folder {tmp_path}/none: cannot read model.json"):
        Judge(Config.model_validate({"model": {"path": str(tmp_path / "none")}}))
