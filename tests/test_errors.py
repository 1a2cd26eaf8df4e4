"""Promises of `agent.errors`: a service manager can tell from the exit code what to do."""

import os

import pytest

from agent import errors
from agent.errors import AgentError


def children_of(kind: type[AgentError]) -> list[type[AgentError]]:
    return [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, kind)]


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [
        (errors.AgentError, 1),
        (errors.UsageError, 2),
        (errors.DeviceError, os.EX_UNAVAILABLE),
        (errors.DeviceAwayError, os.EX_UNAVAILABLE),
        (errors.DeviceHungError, os.EX_IOERR),
        (errors.CalibrationError, os.EX_UNAVAILABLE),
        (errors.BrokerError, os.EX_UNAVAILABLE),
        (errors.DownloadError, os.EX_UNAVAILABLE),
        (errors.RecordingError, os.EX_IOERR),
        (errors.OutputError, os.EX_IOERR),
        (errors.DatabaseError, os.EX_IOERR),
        (errors.DatabaseUnwritableError, os.EX_IOERR),
        (errors.DatabaseCorruptError, os.EX_IOERR),
        (errors.ConfigError, os.EX_CONFIG),
        (errors.ModelError, os.EX_CONFIG),
    ],
)
def test_exit_codes_are_those_of_sysexits(kind: type[AgentError], exit_code: int) -> None:
    """Each kind of trouble has its own conventional exit code, so that a unit file can name it."""
    assert kind.exit_code == exit_code


def test_the_drawn_tree_is_the_tree() -> None:
    """The module's drawing names every error, with its exit code."""
    drawing = {
        words[0]: int(words[1])
        for line in str(errors.__doc__).splitlines()
        if len(words := line.strip(" ├─└│").split()) > 1 and words[0].endswith("Error")
    }

    assert drawing == {kind.__name__: kind.exit_code for kind in children_of(AgentError)}
