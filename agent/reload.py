"""A new configuration while the agent hears: read on the main thread, put into effect on the pipeline thread.

In: a request (SIGHUP), and the file and the environment, read anew. Out: a `Next` that is checked as a whole, taken
between two blocks of sound, so that nothing is half changed; or the reason why the old one goes on.

Rules, labels, the broker and the log may change. What cannot (the microphone, the model, the outbox, the names in
topics) keeps its value, and says so, until the next start.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.app import Judge
from agent.broker import BrokerOptions
from agent.config import Config
from agent.errors import AgentError
from agent.outbox import broker_options

log = logging.getLogger(__name__)

CHANGEABLE = ("events", "log", "mqtt")  # sections
FIXED = ("mqtt.prefix",)  # keys in them that wait all the same: topics are told apart by them


@dataclass(frozen=True, slots=True)
class Change:
    """What differs between two configurations.

    Attributes:
        config: the newer, but for what waits: this may be in effect at once.
        changed: the keys that differ and may change, sorted.
        waiting: the keys that differ and wait for the next start, sorted.
    """

    config: Config
    changed: tuple[str, ...]
    waiting: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Next:
    """A configuration that fits the model, and whose files could be read.

    Attributes:
        change: the configuration, and what is new in it.
        judge: the model with its rules.
        options: the broker.
    """

    change: Change
    judge: Judge
    options: BrokerOptions


def compare(before: Config, after: Config) -> Change:
    """What may change at once, and what waits.

    >>> compare(Config(), Config.model_validate({"node": {"id": "node-07"}, "log": {"level": "debug"}})).waiting
    ('node.id',)
    """
    old, new = _leaves(before.model_dump()), _leaves(after.model_dump())
    different = sorted(key for key in old | new if old.get(key) != new.get(key))
    waiting = tuple(key for key in different if key.split(".")[0] not in CHANGEABLE or key in FIXED)
    kept: dict[str, Any] = {name: getattr(before, name) for name in Config.model_fields if name not in CHANGEABLE}
    for key in FIXED:
        section, name = key.split(".")
        kept[section] = getattr(after, section).model_copy(update={name: getattr(getattr(before, section), name)})
    return Change(
        config=after.model_copy(update=kept),
        changed=tuple(key for key in different if key not in waiting),
        waiting=waiting,
    )


def _leaves(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every key with the sections that it stands in, as `mqtt.tls.enabled`. What is not set is as if not there."""
    leaves: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            leaves |= _leaves(value, f"{prefix}{key}.")
        elif value is not None:
            leaves[f"{prefix}{key}"] = value
    return leaves


class Reloader:
    """Asked by a signal, looked after by the main thread, obeyed by the pipeline thread.

    Args:
        judge: in effect, with its configuration.
        read: gives the configuration anew, checked.
        environment: for credentials.
    """

    def __init__(self, judge: Judge, read: Callable[[], Config], environment: Mapping[str, str]) -> None:
        self._judge = judge
        self._read = read
        self._environment = environment
        self._asked = False
        self._next: Next | None = None
        self._problem: str | None = None
        self._waiting: tuple[str, ...] = ()

    def ask(self) -> None:
        """There is a new configuration. Safe in a signal handler."""
        self._asked = True

    @property
    def asked(self) -> bool:
        """Whether it is time to `read`: one after the other."""
        return self._asked and self._next is None

    def read(self) -> None:
        """Read it; called on the main thread. `settled` then tells when that has come to an end.

        A configuration that is wrong is said in the log and in `status`, and changes nothing.
        """
        self._asked = False
        try:
            change = compare(self._judge.config, self._read())
            judge = self._judge.under(change.config)
            options = broker_options(change.config.mqtt, self._environment)
        except AgentError as error:
            self._problem = str(error)
            log.error("config.refused reason=%s", error)  # noqa: TRY400  a traceback says nothing more
        else:
            self._problem = None
            self._next = Next(change, judge, options)

    @property
    def settled(self) -> bool:
        """Whether what was read is in effect, or refused."""
        return self._next is None

    def pending(self) -> Next | None:
        """What is to be put into effect; asked by the pipeline thread between two blocks, which then says `done`."""
        return self._next

    def done(self, now: Next) -> None:
        """It is in effect."""
        self._judge = now.judge
        self._waiting = now.change.waiting
        logging.getLogger().setLevel(now.change.config.log.level.upper())
        log.info("config.reloaded changed=%s waiting=%s", _listed(now.change.changed), _listed(now.change.waiting))
        self._next = None

    @property
    def status(self) -> str | None:
        """What a person should know; None while all is well."""
        if self._problem is not None:
            return f"new configuration refused: {self._problem}"
        if self._waiting:
            return f"restart to change {_listed(self._waiting)}"
        return None


def _listed(keys: tuple[str, ...]) -> str:
    return ",".join(keys) or "none"
