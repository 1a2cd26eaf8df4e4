"""The site's configuration: one TOML file, then `URBANSOUND_SECTION__KEY` from the environment.

In: a path and an environment. Out: a frozen `Config`. Unknown keys are refused with the nearest known one.
Every key is described in `config/agent.toml`. Read once, at start, on the main thread.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator

from agent.errors import ConfigError
from agent.model_card import CardPart, EventNumbers, first_problem

ENVIRONMENT_PREFIX = "URBANSOUND_"
ACCELERATORS = ("auto", "cpu", "gpu", "edgetpu", "npu")

Identifier = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


def _can_be_opened(path: object) -> object:
    if path == "":  # it would be the folder that one stands in
        raise ValueError("expected a path, and it is empty")
    if not str(path).isprintable():  # not shown: it may be the key itself, where its file should stand
        raise ValueError("expected the path of a file, and there are line breaks or other control characters in it")
    return path


FilePath = Annotated[Path, Field(strict=False), BeforeValidator(_can_be_opened)]  # written as text
Labels = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]  # written as an array


class ConfigPart(CardPart, strict=True):
    """A part of the configuration: a number in quotes is not a number."""


class NodeConfig(ConfigPart):
    """Who this sensor is."""

    id: Identifier = "node"
    source: Identifier = "street"


class AudioConfig(ConfigPart):
    """The microphone."""

    device: str | int | None = None
    sample_rate_hz: Annotated[int, Field(ge=8_000, le=192_000)] | None = None
    channel: Annotated[int, Field(ge=1, le=64)] | Literal["mix"] = "mix"
    channels: Annotated[int, Field(ge=1, le=64)] | None = None
    full_scale_db: Annotated[float, Field(ge=60.0, le=200.0)] | None = None
    ring_s: Annotated[float, Field(ge=2.0, le=120.0)] = 10.0

    @model_validator(mode="after")
    def _channel_exists(self) -> Self:
        if isinstance(self.channel, int) and self.channels is not None and self.channel > self.channels:
            raise ValueError(f"channel = {self.channel}, expected at most channels = {self.channels}")
        return self


class ModelConfig(ConfigPart):
    """The model folder."""

    path: FilePath | None = None


class InferenceConfig(ConfigPart):
    """How often and with what the network runs."""

    window_hop_s: Annotated[float, Field(gt=0.0, le=10.0)] = 0.1
    form: Literal["auto", "streaming", "windowed"] = "auto"
    num_threads: Annotated[int, Field(ge=1, le=64)] = 1
    accelerator: str = "auto"

    @field_validator("accelerator")
    @classmethod
    def _accelerator_is_known(cls, asked: str) -> str:
        if asked not in ACCELERATORS and not re.search(r"/|\.so(\.\d+)*$", asked):
            raise ValueError(f"expected {', '.join(ACCELERATORS)}, or the path of a TFLite delegate")
        return asked


class EventsConfig(ConfigPart):
    """Overrides of the model's event numbers."""

    update_interval_s: Annotated[float, Field(ge=1.0, le=3600.0)] = 10.0
    labels: Labels | None = None
    default: EventNumbers = EventNumbers()
    classes: dict[str, EventNumbers] = Field(default_factory=dict)


class LevelsConfig(ConfigPart):
    """How loud it is, whatever happens."""

    interval_s: Annotated[int, Field(ge=1, le=3600)] = 60

    @field_validator("interval_s")
    @classmethod
    def _divides_an_hour(cls, interval_s: int) -> int:
        if 3600 % interval_s:
            raise ValueError(f"{interval_s}, expected a divisor of 3600, so that each hour has whole intervals")
        return interval_s


class TlsConfig(ConfigPart):
    """Encryption, and who is who."""

    enabled: bool = False
    ca_file: FilePath | None = None
    cert_file: FilePath | None = None
    key_file: FilePath | None = None

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file: expected both or neither")
        return self

    @model_validator(mode="after")
    def _is_not_forgotten(self) -> Self:
        if "enabled" not in self.model_fields_set and (self.ca_file or self.cert_file):
            raise ValueError("files without enabled, expected enabled = true, or false to leave them unused")
        return self


class HomeAssistantConfig(ConfigPart):
    """Whether Home Assistant is told how to show the node."""

    enabled: bool = False
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_/-]*$")] = "homeassistant"


class MqttConfig(ConfigPart):
    """The broker."""

    host: Annotated[str, Field(min_length=1)] = "localhost"
    port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    protocol: Literal["5", "3.1.1"] = "5"
    prefix: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_/-]*$")] = "urbansound"
    username: str | None = None
    password: SecretStr | None = None
    password_file: FilePath | None = None
    keepalive_s: Annotated[int, Field(ge=5, le=3600)] = 30
    tls: TlsConfig = TlsConfig()
    home_assistant: HomeAssistantConfig = HomeAssistantConfig()

    @field_validator("host")
    @classmethod
    def _is_a_host(cls, host: str) -> str:
        # One colon is a port, more are an address. Not shown: a URL may hold a password.
        if "@" in host or "/" in host or host.count(":") == 1:
            raise ValueError("expected a name or an address alone; port, user name and password are keys of their own")
        return host

    @property
    def effective_port(self) -> int:
        """The port, or the protocol's own: 8883 with TLS, 1883 without."""
        return self.port or (8883 if self.tls.enabled else 1883)


class SpoolConfig(ConfigPart):
    """The outbox on disk."""

    path: FilePath = Path("/var/lib/urbansound/spool.sqlite")
    max_messages: Annotated[int, Field(ge=100, le=100_000_000)] = 1_000_000
    max_mib: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    max_age_days: Annotated[float, Field(gt=0.0, le=3650.0)] = 90.0
    order: Literal["oldest", "live"] = "oldest"


class LogConfig(ConfigPart):
    """What goes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(ConfigPart):
    """The whole configuration."""

    node: NodeConfig = NodeConfig()
    audio: AudioConfig = AudioConfig()
    model: ModelConfig = ModelConfig()
    inference: InferenceConfig = InferenceConfig()
    events: EventsConfig = EventsConfig()
    levels: LevelsConfig = LevelsConfig()
    mqtt: MqttConfig = MqttConfig()
    spool: SpoolConfig = SpoolConfig()
    log: LogConfig = LogConfig()


def load_config(path: Path | None, environment: Mapping[str, str]) -> Config:
    """Read the file, lay the environment over it, check the whole.

    Args:
        path: the TOML file; None for defaults and environment alone.
        environment: `URBANSOUND_SECTION__KEY` (sections of sections by further `__`) wins over the file; other names
            are not looked at. Values are read as TOML, and as plain text where they are not TOML or the key is a text:
            a password of digits needs no quotes.

    Raises:
        ConfigError: no such file, not TOML, an unknown key, a wrong type, a value out of its range, an
            environment that is not text.
    """
    data: dict[str, Any] = {}
    if path is not None:
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows may have put a mark in front
        except OSError as error:
            raise ConfigError(f"configuration {path}: cannot be read ({error.strerror})") from error
        except ValueError as error:  # also: not UTF-8, or a number of thousands of digits
            raise ConfigError(f"configuration {path}: not TOML ({error})") from error
        except RecursionError as error:
            raise ConfigError(f"configuration {path}: is nested too deep, expected sections and values") from error
    overrides = _lay_over(data, environment)
    where = " with ".join(["configuration" if path is None else str(path), *overrides])
    _refuse_unknown_keys(data, Config, where)
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{where}: {first_problem(error)}") from error


def _lay_over(data: dict[str, Any], environment: Mapping[str, str]) -> list[str]:
    """Put the environment's values into the data; give the names that were used."""
    used = []
    for name in sorted(environment):
        if not name.startswith(ENVIRONMENT_PREFIX) or "__" not in name:
            continue
        try:
            environment[name].encode()
        except UnicodeEncodeError as error:  # the value is not shown: it may be a password
            raise ConfigError(f"environment {name}: is not UTF-8 text") from error
        *sections, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        place = data
        model: type[BaseModel] | None = Config
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ConfigError(f"environment {name}: {section} is a value in the file, expected a section")
            model = _section(model, section)
        place[key] = _value(environment[name], is_text=model is not None and _is_text(model, key))
        used.append(name)
    return used


def _section(model: type[BaseModel] | None, name: str) -> type[BaseModel] | None:
    field = None if model is None else model.model_fields.get(name)
    kind = None if field is None else field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _is_text(model: type[BaseModel], key: str) -> bool:
    field = model.model_fields.get(key)
    if field is None:
        return False
    kinds = get_args(field.annotation) or (field.annotation,)  # of a union, or of a Literal
    return all(isinstance(kind, str) or kind in (str, SecretStr, Path, NoneType) for kind in kinds)


def _value(text: str, *, is_text: bool) -> Any:  # noqa: ANN401  any TOML type
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # the latter: thousands of brackets
        return text
    return text if is_text and not isinstance(value, str) else value


def _refuse_unknown_keys(data: Mapping[str, Any], model: type[BaseModel], where: str, section: str = "") -> None:
    """Find the unknown key before pydantic does: it can say which key was meant."""
    for key, value in data.items():
        field = model.model_fields.get(key)
        name = f"{section}{key}"
        if field is None:
            near = difflib.get_close_matches(key, model.model_fields, n=1, cutoff=0.5)
            hint = f", did you mean {section}{near[0]}?" if near else f", expected one of {sorted(model.model_fields)}"
            raise ConfigError(f"{where}: unknown key {name}{hint}")
        part = _section(model, key)
        if part is not None and isinstance(value, dict):
            _refuse_unknown_keys(value, part, where, f"{name}.")
        elif name == "events.classes" and isinstance(value, dict):
            for label, numbers in value.items():
                if isinstance(numbers, dict):
                    _refuse_unknown_keys(numbers, EventNumbers, where, f"{name}.{label}.")


def toml_lines(table: Mapping[str, Any], name: str = "") -> Iterator[str]:
    """A table as TOML, line by line: values first, then its tables.

    Args:
        table: texts, numbers, booleans, arrays and tables of them.
        name: of the table; the whole file has none.
    """
    values = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    if name and (values or not table):
        yield f"[{name}]"
    for key, value in values.items():
        yield f"{key} = {_as_toml(value)}"
    if values:
        yield ""
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            word = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _as_toml(key)
            yield from toml_lines(value, f"{name}.{word}" if name else word)


def _as_toml(value: str | float | bool | list[str]) -> str:
    """Texts, numbers, booleans and arrays of them are written alike in JSON and TOML, but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
