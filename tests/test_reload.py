"""Promises of `agent.reload`: a new configuration comes into effect as a whole or not at all, and says what waits."""

import json
import logging
import re
import signal
from collections.abc import Callable
from contextlib import ExitStack, closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.app import Judge
from agent.config import Config, load_config
from agent.reload import CHANGEABLE, FIXED, Reloader, compare
from tests.broker import BrokerFactory, SubscriberFactory, wait_until
from tests.commands import CommandFactory
from tests.conftest import REPOSITORY
from tests.sound_server import SoundServer
from tests.street import Loudspeaker, Sound
from tests.test_config import keys_of
from tests.test_sensor import EVENT, INFO, STATUS, Systemd, write_config


def config_of(**sections: Any) -> Config:  # noqa: ANN401  any section of the file
    return Config.model_validate(sections)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(config_of(node={"id": "node-07"}))


def reloader(judge: Judge, read: Callable[[], Config]) -> Reloader:
    return Reloader(judge, read, {})


# What may change


def test_rules_labels_publishing_and_log_may_change() -> None:
    """These differ at once, key by key; a key that came or went counts as well."""
    before = config_of(events={"default": {"on": 0.5}, "classes": {"siren": {"on": 0.7}}})
    after = config_of(
        events={"default": {"on": 0.6}, "labels": ["siren"], "update_interval_s": 5.0},
        mqtt={"host": "broker.example", "tls": {"enabled": True}},
        log={"level": "debug"},
    )

    change = compare(before, after)

    assert change.config == after
    assert change.waiting == ()
    assert change.changed == (
        "events.classes.siren.on",
        "events.default.on",
        "events.labels",
        "events.update_interval_s",
        "log.level",
        "mqtt.host",
        "mqtt.tls.enabled",
    )


def test_what_cannot_change_keeps_its_value_and_is_named() -> None:
    """Microphone, model, outbox and names in topics wait for the next start; the rest of the file does not."""
    before = config_of(node={"id": "node-07"})
    after = config_of(
        node={"id": "node-08"},
        audio={"device": 2},
        model={"path": "/model"},
        inference={"window_hop_s": 0.5},
        mqtt={"prefix": "city", "host": "broker.example"},
        spool={"max_messages": 500},
        events={"default": {"on": 0.6}},
    )

    change = compare(before, after)

    assert change.changed == ("events.default.on", "mqtt.host")
    assert change.waiting == (
        "audio.device",
        "inference.window_hop_s",
        "model.path",
        "mqtt.prefix",
        "node.id",
        "spool.max_messages",
    )
    kept = before.model_dump()
    kept["events"]["default"]["on"], kept["mqtt"]["host"] = 0.6, "broker.example"
    assert change.config.model_dump() == kept


def test_a_password_is_compared_and_not_shown() -> None:
    """A new password is a change, by its key alone."""
    change = compare(config_of(mqtt={"password": "old"}), config_of(mqtt={"password": "new"}))

    assert change.changed == ("mqtt.password",)


def test_the_same_is_no_change() -> None:
    """A file that was only touched changes nothing."""
    assert compare(config_of(), config_of()).changed == compare(config_of(), config_of()).waiting == ()


def test_the_documents_say_what_may_change() -> None:
    """Each section and each exception stands in docs/configuration.md, and no other key does."""
    text = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    _, _, rest = text.partition("## Change it while the agent runs")
    (at_once,) = (line for line in rest.splitlines() if line.startswith("| at once |"))
    (waits,) = (line for line in rest.splitlines() if line.startswith("| at the next start |"))
    sections = {name.split(".")[0] for name in keys_of(Config)}

    assert set(re.findall(r"`\[(\w+)\]`", at_once)) == set(CHANGEABLE)
    assert set(re.findall(r"`\[(\w+)\]`", waits)) == sections - set(CHANGEABLE)
    assert set(re.findall(r"`(\w+\.\w+)`", waits)) == set(FIXED)


# How it is put into effect


def test_what_was_read_waits_for_the_pipeline(judge: Judge) -> None:
    """Nothing is in effect before the pipeline has said so; then it is, and the log names the keys."""
    after = config_of(node={"id": "node-07"}, events={"classes": {"siren": {"on": 0.77}}})
    reload = reloader(judge, lambda: after)

    assert not reload.asked
    reload.ask()
    assert reload.asked
    reload.read()
    new = reload.pending()

    assert not reload.settled
    assert new is not None
    assert new.judge.rules["siren"].on == 0.77
    assert judge.rules["siren"].on != 0.77
    assert new.judge.classifier is judge.classifier
    reload.done(new)
    assert reload.settled
    assert reload.pending() is None
    assert reload.status is None


def test_one_comes_after_the_other(judge: Judge) -> None:
    """Who asks again meanwhile is heard afterwards, and compared with what is in effect by then."""
    files = [config_of(events={"default": {"on": on}}, node={"id": "node-07"}) for on in (0.6, 0.7)]
    reload = reloader(judge, lambda: files.pop(0))
    reload.ask()
    reload.read()
    reload.ask()

    assert not reload.asked
    first = reload.pending()
    assert first is not None
    reload.done(first)
    assert reload.asked
    reload.read()
    second = reload.pending()
    assert second is not None
    assert second.change.changed == ("events.default.on",)
    assert second.judge.config.events.default.on == 0.7


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[events\n", "not TOML"),
        ("[events.default]\non = 1.5", "events.default.on = 1.5: Input should be less than or equal to 1"),
        ("[events.default]\nonn = 0.5", "unknown key events.default.onn, did you mean events.default.on?"),
        ("[events.classes.sirene]\non = 0.5", "events.classes.sirene: unknown class, expected one of"),
        ("[events]\nlabels = ['sirene']", "events.labels: unknown class 'sirene', expected some of"),
        ("[events]\nlabels = ['background']", "events.labels: unknown class 'background', expected some of"),
        ("[events.default]\non = 0.2\noff = 0.4", "off = 0.4, expected at most on = 0.2"),
        ("[mqtt]\npassword_file = '/nowhere'", "mqtt password file /nowhere: cannot be read"),
        ("[mqtt.tls]\nenabled = true\nca_file = '/nowhere'", "/nowhere: cannot be read"),
        ("[mqtt]\npassword = 'secret'", "mqtt.password is set and mqtt.username is not"),
        ("x = " + "[" * 100_000, "nested too deep"),
        ('[mqtt]\npassword_file = "a\\u0000b"', "mqtt.password_file: "),
        (None, "cannot be read"),
    ],
)
def test_a_bad_file_is_refused_and_the_old_one_goes_on(
    judge: Judge, tmp_path: Path, text: str | None, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is wrong with it, nothing of it comes into effect; the log and the status say why."""
    file = tmp_path / "agent.toml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    reload = reloader(judge, lambda: load_config(file, {}))

    reload.ask()
    reload.read()

    assert reload.settled
    assert reload.pending() is None
    assert reload.status is not None
    assert reload.status.startswith("new configuration refused: ")
    assert why in reload.status
    assert f"config.refused reason={reload.status.removeprefix('new configuration refused: ')}" in caplog.messages
    assert "secret" not in caplog.text


def test_a_good_file_makes_up_for_a_bad_one(judge: Judge) -> None:
    """The status speaks of the newest file, and of what waits for the next start, until that is taken back."""
    files = [
        config_of(node={"id": "node-07"}, events={"default": {"on": 0.0, "off": 0.5}}),
        config_of(node={"id": "node-08"}),
        config_of(node={"id": "node-07"}),
    ]
    reload = reloader(judge, lambda: files.pop(0))
    seen = []
    for _ in range(3):
        reload.ask()
        reload.read()
        if (new := reload.pending()) is not None:
            reload.done(new)
        seen.append(reload.status)

    assert seen[0] is not None
    assert "off = 0.5, expected at most on = 0.0" in seen[0]
    assert seen[1:] == ["restart to change node.id", None]


def test_the_log_level_changes(judge: Judge, caplog: pytest.LogCaptureFixture) -> None:
    """`log.level` is in effect at once."""
    root = logging.getLogger()
    before = root.level
    reload = reloader(judge, lambda: config_of(node={"id": "node-07"}, log={"level": "error"}))
    reload.ask()
    reload.read()
    new = reload.pending()
    assert new is not None
    try:
        reload.done(new)
        assert root.level == logging.ERROR
    finally:
        root.setLevel(before)


# In a sensor that hears


def test_a_sensor_takes_a_new_configuration_while_it_hears(  # noqa: PLR0917  what it needs
    breakable_sound_server: SoundServer,
    make_broker: BrokerFactory,
    subscribe: SubscriberFactory,
    urbansound: CommandFactory,
    siren: Sound,
    tmp_path: Path,
) -> None:
    """A bad file is refused and nothing changes; a good one changes rules and broker at once.

    The siren that sounds ends by the old rule, a new event goes on by the new one; no message is lost between the
    brokers. systemd hears of both attempts. What the command line said goes on counting: it does not wait for a start.
    """
    old, new = make_broker().start(), make_broker().start()
    at_old, at_new = subscribe(old.options()), subscribe(new.options())
    with closing(Loudspeaker(breakable_sound_server.load_fifo())) as loudspeaker, ExitStack() as stack:
        systemd = stack.enter_context(closing(Systemd(tmp_path / "notify")))
        config = write_config(tmp_path, port=old.port)
        agent = urbansound(
            "run",
            "--config",
            config,
            "--inference",
            "windowed",
            environment=breakable_sound_server.environment,
            more={"NOTIFY_SOCKET": str(tmp_path / "notify")},
        )
        wait_until(lambda: "READY=1" in systemd.told, "READY")
        loudspeaker.play(siren.samples)
        agent.wait_for_log("event.start")

        config.write_text("[events.default]\non = 2.0\n", encoding="utf-8")
        agent.signal(signal.SIGHUP)
        agent.wait_for_log("config.refused reason=")
        wait_until(lambda: any("new configuration refused: " in line for line in systemd.told), "the status")
        write_config(tmp_path, port=new.port, more="[events.classes.siren]\nmerge_gap_s = 0.4\n", device="other")
        agent.signal(signal.SIGHUP)
        agent.wait_for_log("config.reloaded")
        agent.wait_for_log("mqtt.connected", 2)
        agent.wait_for_log("event.start", 2)
        wait_until(lambda: any("restart to change audio.device" in line for line in systemd.told), "the status")
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 143

    assert "config.reloaded changed=events.classes.siren.merge_gap_s,mqtt.port waiting=audio.device" in agent.stderr
    assert systemd.told.count("RELOADING=1") == 2
    assert systemd.told.count("READY=1") == 3
    wait_until(lambda: at_new.payloads(STATUS)[-1:] == [b"offline"], "`offline`")
    assert at_old.payloads(STATUS)[-1] == b"offline"
    events = [json.loads(payload) for payload in (*at_old.payloads(EVENT), *at_new.payloads(EVENT))]
    states = {event["seq"]: (event["event_type"], event.get("end_reason")) for event in events}
    assert [states[seq] for seq in sorted(states)] == [
        ("start", None),
        ("end", "rule_changed"),
        ("start", None),
        ("end", "shutdown"),
    ]
    cut, goes_on = (event for event in events if event["event_type"] == "end")
    # One sample; between the two messages the microphone's clock may have been followed by a millisecond.
    seam = datetime.fromisoformat(goes_on["start"]) - datetime.fromisoformat(cut["end"])
    assert abs(seam) < timedelta(milliseconds=20)
    before, after = json.loads(at_old.payloads(INFO)[-1]), json.loads(at_new.payloads(INFO)[-1])
    assert before["config_sha256"] != after["config_sha256"]
    assert before["sources"] == after["sources"]
