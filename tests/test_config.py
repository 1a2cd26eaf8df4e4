"""Promises of `agent.config`: one strict file, an environment that wins, and a reference that tells the truth."""

import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from agent.config import Config, load_config, toml_lines
from agent.errors import ConfigError
from agent.model_card import EventNumbers
from tests.conftest import REPOSITORY

REFERENCE = REPOSITORY / "config" / "agent.toml"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return tmp_path / "agent.toml"


def load(config_file: Path, text: str, environment: dict[str, str] | None = None) -> Config:
    config_file.write_text(text, encoding="utf-8")
    return load_config(config_file, environment or {})


def problem_with(config_file: Path, text: str, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(config_file, text, environment)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_a_file_everything_has_a_default() -> None:
    """The agent runs without any configuration."""
    assert load_config(None, {}) == Config()


def test_a_file_is_read(config_file: Path) -> None:
    """What the file says is what the agent uses; what it does not say keeps its default."""
    config = load(
        config_file,
        """
        [audio]
        device = 2
        channel = 2
        channels = 2
        [events.classes.siren]
        on = 0.7
        [mqtt]
        host = "broker.example"
        tls = { enabled = true }
        """,
    )

    assert (config.audio.device, config.audio.channel, config.audio.ring_s) == (2, 2, 10.0)
    assert config.events.classes == {"siren": EventNumbers(on=0.7)}
    assert (config.mqtt.host, config.mqtt.effective_port) == ("broker.example", 8883)


@pytest.mark.parametrize(("tls", "port"), [("", 1883), ("tls.enabled = true", 8883), ("port = 10883", 10883)])
def test_the_port_follows_the_protocol(config_file: Path, tls: str, port: int) -> None:
    """Without a port in the file, MQTT's own is used: another one with TLS."""
    assert load(config_file, f"[mqtt]\n{tls}").mqtt.effective_port == port


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("[audio]\nrings_s = 3", "audio.rings_s, did you mean audio.ring_s?", id="unknown key"),
        pytest.param("[audoi]\nring_s = 3", "audoi, did you mean audio?", id="unknown section"),
        pytest.param("[mqtt.tls]\nca_flie = ''", "mqtt.tls.ca_flie, did you mean mqtt.tls.ca_file?", id="nested key"),
        pytest.param(
            "[events.classes.siren]\nmin_duration = 1",
            "events.classes.siren.min_duration, did you mean events.classes.siren.min_duration_s?",
            id="key of a class",
        ),
        pytest.param("[node]\nzzz = 1", "node.zzz, expected one of ['id', 'source']", id="nothing like it"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known(config_file: Path, text: str, expected: str) -> None:
    """A misspelt key stops the agent and says which key was probably meant."""
    assert problem_with(config_file, text) == f"{config_file}: unknown key {expected}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("[audio]\nring_s = 'ten'", "audio.ring_s = 'ten': Input should be a valid number", id="text"),
        pytest.param("[audio]\nring_s = '10'", "audio.ring_s = '10': Input should be a valid number", id="quoted"),
        pytest.param("[mqtt]\nport = true", "mqtt.port = True: Input should be a valid integer", id="bool"),
        pytest.param(
            "[events.default]\non = 1.5", "events.default.on = 1.5: Input should be less than or equal to 1", id="1.5"
        ),
        pytest.param("[events.classes.siren]\non = -0.1", "events.classes.siren.on = -0.1: ", id="negative"),
        pytest.param("[audio]\nring_s = 1", "audio.ring_s = 1: Input should be greater than or equal to 2", id="low"),
        pytest.param("[inference]\nwindow_hop_s = nan", "inference.window_hop_s = nan: ", id="nan"),
        pytest.param("[inference]\nwindow_hop_s = 0.0", "inference.window_hop_s = 0.0: ", id="zero"),
        pytest.param(
            "[audio]\nchannel = 'left'",
            "audio.channel = 'left': Input should be a valid integer, or Input should be 'mix'",
            id="channel",
        ),
        pytest.param(
            "[audio]\nchannel = 3\nchannels = 2", "audio: channel = 3, expected at most channels = 2", id="3of2"
        ),
        pytest.param("[mqtt]\nprotocol = '4'", "mqtt.protocol = '4': Input should be '5' or '3.1.1'", id="protocol"),
        pytest.param(
            "[levels]\ninterval_s = 7", "levels.interval_s: 7, expected a divisor of 3600", id="no whole intervals"
        ),
        pytest.param("[mqtt.tls]\ncert_file = 'a'", "mqtt.tls: cert_file and key_file: expected both", id="half"),
        pytest.param("[mqtt.tls]\nca_file = 'a'", "mqtt.tls: files without enabled, expected enabled", id="clear"),
        pytest.param("[node]\nid = 'Straße 7'", "node.id = 'Straße 7': String should match", id="identifier"),
        pytest.param("[events]\nclasses = 5", "events.classes = 5: Input should be a table of keys", id="no classes"),
        pytest.param("audio = 5", "audio = 5: Input should be a table of keys", id="no section"),
        pytest.param("[[audio]]", "audio: Input should be a table of keys", id="sections"),
        pytest.param("[events]\nlabels = 'siren'", "events.labels = 'siren': Input should be an array", id="no array"),
        pytest.param("[events]\nlabels = []", "events.labels: Array should not be empty", id="empty array"),
        pytest.param("[model]\npath = 5", "model.path = 5: Input should be a valid string", id="no path"),
        pytest.param("[spool]\npath = ''", "spool.path: expected a path, and it is empty", id="empty path"),
    ],
)
def test_a_wrong_value_is_refused(config_file: Path, text: str, expected: str) -> None:
    """A value of the wrong type or out of its range stops the agent; the message has key, value and expectation."""
    assert problem_with(config_file, text).startswith(f"{config_file}: {expected}")


def test_a_file_that_is_not_toml_is_refused(config_file: Path) -> None:
    """A broken file stops the agent and says in which line."""
    assert "not TOML" in (message := problem_with(config_file, "[audio]\nring_s == 3"))
    assert "line 2" in message


def test_a_file_that_is_not_text_is_refused(config_file: Path) -> None:
    """A file that is not text at all is an error, not a crash."""
    config_file.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ConfigError, match="not TOML"):
        load_config(config_file, {})


def test_a_file_from_windows_is_read(config_file: Path) -> None:
    """Some editors there put a mark that nobody sees in front, and end lines otherwise."""
    config_file.write_bytes(b"\xef\xbb\xbf[node]\r\nid = 'node-07'\r\n")

    assert load_config(config_file, {}).node.id == "node-07"


def test_a_number_of_thousands_of_digits_is_refused(config_file: Path) -> None:
    """Python does not read it; in the environment it is a text."""
    assert "not TOML (Exceeds the limit" in problem_with(config_file, f"[audio]\nring_s = {'9' * 5000}")

    with pytest.raises(ConfigError, match=r"with URBANSOUND_NODE__ID: node\.id = '9999"):
        load_config(None, {"URBANSOUND_NODE__ID": "9" * 5000})


def test_a_file_that_never_ends_is_refused(config_file: Path) -> None:
    """Thousands of brackets are an error of the file, not of the agent; in the environment they are a text."""
    assert "is nested too deep" in problem_with(config_file, f"node = {'[' * 3000}")

    with pytest.raises(ConfigError, match=r"with URBANSOUND_NODE__ID: node\.id = "):
        load_config(None, {"URBANSOUND_NODE__ID": "[" * 3000})


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A file that is not there is an error: the agent does not quietly run with defaults."""
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read \(No such file or directory\)"):
        load_config(tmp_path / "nowhere.toml", {})


def test_the_environment_wins_over_the_file(config_file: Path) -> None:
    """`URBANSOUND_SECTION__KEY` changes one key and leaves the file's others."""
    config = load(
        config_file,
        "[mqtt]\nhost = 'one'\nprotocol = '3.1.1'\nkeepalive_s = 60\n[audio]\nring_s = 20",
        {
            "URBANSOUND_MQTT__HOST": "two",
            "URBANSOUND_MQTT__PROTOCOL": "5",
            "URBANSOUND_MQTT__TLS__ENABLED": "true",
            "URBANSOUND_EVENTS__CLASSES__SIREN__ON": "0.7",
            "URBANSOUND_AUDIO__DEVICE": "2",
            "URBANSOUND_HOME": "/not/looked/at",
            "MQTT__KEEPALIVE_S": "5",
            "PATH": "/bin",
        },
    )

    assert (config.mqtt.host, config.mqtt.keepalive_s, config.mqtt.tls.enabled) == ("two", 60, True)
    assert config.mqtt.protocol == "5"
    assert config.events.classes["siren"].on == 0.7
    assert (config.audio.device, config.audio.ring_s) == (2, 20.0)


@pytest.mark.parametrize("text", ["1234", "1e5", "true", "[1, 2]", "hunter2", '"quoted"'])
def test_a_text_from_the_environment_needs_no_quotes(text: str) -> None:
    """A password of digits is a text, although it reads as a number."""
    password = load_config(None, {"URBANSOUND_MQTT__PASSWORD": text}).mqtt.password

    assert password is not None
    assert password.get_secret_value() == text.strip('"')


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("URBANSOUND_MQTT__PORT", "high", "mqtt.port = 'high': Input should be a valid integer"),
        ("URBANSOUND_MQTT__PROT", "1883", "unknown key mqtt.prot, did you mean mqtt.port?"),
        ("URBANSOUND_MQTT__TLS__ENABLED", "yes", "mqtt.tls.enabled = 'yes': Input should be a valid boolean"),
    ],
)
def test_a_wrong_environment_is_named(name: str, value: str, expected: str) -> None:
    """Where the environment is to blame, the message names the variable."""
    with pytest.raises(ConfigError) as caught:
        load_config(None, {name: value})

    assert str(caught.value).startswith(f"configuration with {name}: {expected}")


def test_an_environment_that_is_not_text_is_named() -> None:
    """Bytes that are no UTF-8 are refused where they are read, and not shown: they may be a password."""
    name = "URBANSOUND_MQTT__PASSWORD"

    with pytest.raises(ConfigError) as caught:
        load_config(None, {name: os.fsdecode(b"hunter\xff")})

    assert str(caught.value) == f"environment {name}: is not UTF-8 text"


def test_a_key_cannot_be_a_value_and_a_section(config_file: Path) -> None:
    """The environment cannot put a key below a key."""
    message = problem_with(config_file, "[mqtt]\nhost = 'a'", {"URBANSOUND_MQTT__HOST__NAME": "b"})

    assert message == "environment URBANSOUND_MQTT__HOST__NAME: host is a value in the file, expected a section"


@pytest.mark.parametrize("host", ["broker.example:1883", "broker.example/mqtt", "hunter2@broker.example"])
def test_a_host_is_a_name_or_an_address_alone(config_file: Path, host: str) -> None:
    """With a port or as a URL it would be looked up in vain, for ever; it is not shown, as it may hold a password."""
    assert problem_with(config_file, f"[mqtt]\nhost = '{host}'") == (
        f"{config_file}: mqtt.host: expected a name or an address alone; "
        "port, user name and password are keys of their own"
    )
    for alone in ("broker.example", "192.0.2.7", "2001:db8::7", "::1"):
        assert load(config_file, f"[mqtt]\nhost = '{alone}'").mqtt.host == alone


@pytest.mark.parametrize("password", ["['hunter2']", "{ a = 'hunter2' }"])
def test_a_password_is_never_shown(config_file: Path, password: str) -> None:
    """Neither the configuration as printed nor a message about it shows the password."""
    assert "hunter2" not in problem_with(config_file, f"[mqtt]\npassword = {password}")
    assert "hunter2" not in problem_with(config_file, "[[mqtt]]\npassword = 'hunter2'")
    assert "4711" not in problem_with(config_file, "[mqtt]\npassword = 4711")
    key = problem_with(config_file, "[mqtt.tls]\nkey_file = '''-----BEGIN PRIVATE KEY-----\nhunter2'''")
    assert key.startswith(f"{config_file}: mqtt.tls.key_file: expected the path of a file")
    assert "hunter2" not in key
    config = load(config_file, "[mqtt]\npassword = 'hunter2'")
    assert "hunter2" not in repr(config)
    assert "hunter2" not in config.model_dump_json()


@dataclass
class Documented:
    """One key as the reference shows it."""

    text: str  # as TOML
    comment: str  # what stands above it
    is_example: bool
    section: str = ""
    value: Any = field(init=False)

    def __post_init__(self) -> None:
        ((_, self.value),) = tomllib.loads(self.text).items()


def reference() -> dict[str, Documented]:
    """The keys of `config/agent.toml`, by their full name."""
    keys, section, comment = {}, "", ""
    for line in REFERENCE.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"#?\[(.+)\]", line):
            section = match[1]
        elif match := re.fullmatch(r"#((\w+) = .*?)(  # example)?", line):
            keys[f"{section}.{match[2]}"] = Documented(match[1], comment, match[3] is not None)
        comment = f"{comment} {line[2:]}" if line.startswith("# ") else ""
    return keys


def keys_of(model: type[BaseModel], section: str = "") -> dict[str, FieldInfo]:
    """The keys that the code knows, by their full name; those of a class under the class of the reference."""
    keys: dict[str, FieldInfo] = {}
    for name, info in model.model_fields.items():
        place = f"{section}{name}"
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys |= keys_of(info.annotation, f"{place}.")
        elif place != "events.classes":
            keys[place] = info
    return keys


def uncommented(*, examples: bool) -> str:
    lines = []
    for line in REFERENCE.read_text(encoding="utf-8").splitlines():
        is_example = line.endswith("# example") or line.startswith("#[")
        lines.append(line.removeprefix("#") if not line.startswith("# ") and (examples or not is_example) else line)
    return "\n".join(lines)


def test_the_reference_as_it_stands_means_all_defaults() -> None:
    """The reference configuration can be installed unchanged."""
    assert load_config(REFERENCE, {}) == Config()


def test_the_reference_describes_every_key_and_no_other() -> None:
    """Every key that the agent knows is in the reference, with a sentence above it."""
    documented = {name: key for name, key in reference().items() if not name.startswith("events.classes.")}

    assert documented.keys() == keys_of(Config).keys()
    assert [name for name, key in documented.items() if len(key.comment.split()) < 4] == []


def test_the_reference_shows_the_defaults(config_file: Path) -> None:
    """Uncommenting the defaults changes nothing, and what has no default is marked as an example."""
    assert load(config_file, uncommented(examples=False)) == Config()

    without_default = {name for name, info in keys_of(Config).items() if info.default is None}
    examples = {name for name, key in reference().items() if key.is_example and not name.startswith("events.classes.")}
    assert examples == without_default


def test_the_examples_of_the_reference_are_valid(config_file: Path) -> None:
    """Every example can be used as it stands."""
    config = load(config_file, uncommented(examples=True))

    assert config.events.classes["siren"].on == reference()["events.classes.siren.on"].value
    for name, key in reference().items():
        value: Any = config.model_dump()
        for part in name.split("."):
            value = value[part]
        value = list(value) if isinstance(value, tuple) else value
        assert str(value) in (str(key.value), "**********"), name


@pytest.mark.parametrize(
    "name", [name for name, info in keys_of(Config).items() if re.search(r"\b[GL][et]\(", repr(info))]
)
def test_the_reference_states_the_range(name: str) -> None:
    """The bounds that stand above a key are those that the agent checks."""
    info, comment = keys_of(Config)[name], reference()[name].comment
    bounds = [float(bound) for bound in re.findall(r"\b[gl][et]=([\d_.]+)", repr(info))]
    stated = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", comment)]

    assert bounds
    assert [bound for bound in bounds if bound not in stated] == []


def test_a_table_written_as_toml_is_read_as_it_was() -> None:
    """Whatever stands in its texts and keys; values come before tables, as TOML wants it."""
    table = {
        "audio": {"device": 'a "mic" \\ \x7f\u00e9\U0001f50a', "channel": 2, "ratio": 0.5, "on": True},
        "events": {"default": {"on": 0.5}, "classes": {"dog bark": {"on": 0.6}}},
        "name": "x",
    }

    assert tomllib.loads("\n".join(toml_lines(table))) == table


@pytest.mark.parametrize("asked", ["auto", "cpu", "gpu", "edgetpu", "npu", "/opt/x/libdelegate.so", "libx.so.1"])
def test_accelerators_have_a_name_or_are_a_delegate(asked: str) -> None:
    """A name, or something that can be the path of a library; whether it is there shows at start."""
    assert load_config(None, {"URBANSOUND_INFERENCE__ACCELERATOR": asked}).inference.accelerator == asked


def test_a_word_that_is_no_accelerator_is_an_error() -> None:
    """A typo must not be taken for a library that is missing."""
    with pytest.raises(
        ConfigError, match=r"inference\.accelerator: expected auto, cpu, gpu, edgetpu, npu, or the path"
    ):
        load_config(None, {"URBANSOUND_INFERENCE__ACCELERATOR": "tpu"})
