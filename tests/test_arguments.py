"""Promises of `agent.arguments`: what can be asked, and what is said of what cannot."""

import re
from typing import get_args

import pytest

from agent import __version__
from agent.arguments import argument_parser
from agent.cli import COMMANDS
from agent.config import InferenceConfig
from tests.commands import Caller


def test_the_version_is_told(call: Caller) -> None:
    """`--version` gives name and version."""
    assert call("--version").out == f"urbansound {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_shows_examples(call: Caller, command: str) -> None:
    """`--help` of a command says what it does, and ends with lines that can be typed."""
    said = call(command, "--help")

    assert said.code == 0
    assert f"usage: urbansound {command}" in said.out
    examples = said.out.partition("\nexamples:\n")[2].splitlines()
    assert examples
    assert all(f"urbansound {command}" in example for example in examples)


def test_help_lists_the_commands(call: Caller) -> None:
    """Who does not know where to begin sees all commands."""
    said = call("--help")

    assert said.code == 0
    assert all(re.search(rf"\n    {command}\s", said.out) for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("listen",), "invalid choice: 'listen'"),
        (("replay",), "the following arguments are required: PATH"),
        (("replay", ""), "argument PATH: expected a path, and it is empty"),
        (("replay", "--format", "xml", "a.wav"), "invalid choice: 'xml'"),
        (("replay", "--channel", "0", "a.wav"), "0: expected a number from 1, or mix"),
        (("replay", "--speed", "-1", "a.wav"), "-1: expected a number from 0.01 to 1000000"),
        (("replay", "--speed", "fast", "a.wav"), "fast: expected a number from 0.01 to 1000000"),
        (("replay", "--start", "yesterday", "a.wav"), "yesterday: expected RFC 3339 such as 2026-01-01T12:00:00Z"),
        (
            ("replay", "--start", "2026-01-01T12:00:00", "a.wav"),
            "no time zone, expected for example 2026-01-01T12:00:00Z",
        ),
        (("replay", "--start", "2026-01-01", "a.wav"), "no time zone, expected for example 2026-01-01T00:00:00Z"),
        (
            ("replay", "--start", "0001-01-01T00:00:00+14:00", "a.wav"),
            "+14:00: expected a time in the years 1900 to 2999",
        ),
        (("replay", "--start", "9999-12-31T23:59:59Z", "a.wav"), "59Z: expected a time in the years 1900 to 2999"),
        (("replay", "--realtime", "--speed", "2", "a.wav"), "not allowed with argument"),
        (("replay", "--jobs", "0", "a.wav"), "0: expected a number from 1 to 1000"),
        (("replay", "--jobs", "2", "--dask", "tcp://x:1", "a.wav"), "not allowed with argument"),
        (("classify", "--inference", "stream", "a.wav"), "invalid choice: 'stream'"),
        (("watch", "--port", "99999"), "99999: expected a number from 1 to 65535"),
        (("watch", "--count", "0"), "0: expected a number from 1 to"),
    ],
)
def test_a_word_that_means_nothing_is_said(call: Caller, arguments: tuple[str, ...], message: str) -> None:
    """A wrong command line ends with 2 and says what was expected."""
    said = call(*arguments)

    assert (said.code, said.out) == (2, "")
    assert message in said.err


def test_each_command_that_can_be_asked_is_there() -> None:
    """The command line and what answers it name the same commands."""
    for command in COMMANDS:
        words = {"check": ["agent.toml"]}.get(command, ["a.wav"] * (command in {"replay", "classify", "levels"}))
        assert argument_parser().parse_args([command, *words]).command == command


def test_the_forms_are_those_of_the_configuration() -> None:
    """`--inference` takes what `inference.form` takes."""
    for form in get_args(InferenceConfig.model_fields["form"].annotation):
        assert argument_parser().parse_args(["run", "--inference", form]).inference == form
