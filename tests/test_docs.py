"""The documents, held to the code: what they name exists, and what exists is named."""

import argparse
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from agent import errors
from agent.arguments import argument_parser
from agent.cli import SOME_FAILED
from agent.config import Config, load_config
from agent.errors import AgentError
from agent.liveness import Cause, State
from agent.model_card import (
    DEFAULT_MODEL,
    EventCard,
    EventNumbers,
    FrontEndNumbers,
    ModelCard,
    NetworkCard,
    TensorCard,
    load_model_folder,
)
from agent.printout import EVENT_COLUMNS, INTERVAL_COLUMNS, LEVEL_COLUMNS
from agent.values import EventState, GapCause
from agent.wire import (
    AcceleratorInfo,
    EventMessage,
    GapMessage,
    HealthMessage,
    InfoMessage,
    LevelMessage,
    LevelPart,
    LivenessPart,
    ModelIdentity,
    Quality,
    SourceInfo,
    Topics,
    WireEndReason,
    WirePart,
    watched_topics,
)
from model_export import arguments as model_arguments
from tests.conftest import REPOSITORY
from tests.test_architecture import MAY_IMPORT

DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
DOCS = REPOSITORY / "docs"
PARSERS = {"urbansound": argument_parser(), "urbansound-model": model_arguments.argument_parser()}
SIGHUP_CODE, SIGINT_CODE, SIGTERM_CODE = 129, 130, 143
# Written like keys of the configuration, but fields of messages, of the model's card, or a file.
NOT_KEYS = {
    "spool.dropped",
    "spool.unwritable",
    "spool.writable",
    "model.json",
    "model.name",
    "model.version",
    "model.sha256",
    "events.onset_response_s",
    "events.offset_response_s",
}
EXTERNAL = ("http://", "https://", "mailto:")


def text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def sections_of(file: Path) -> dict[str, str]:
    """The text below each heading of the second level, by heading."""
    parts = re.split(r"(?m)^## (.+)$", text_of(file))
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows_of(text: str) -> Iterator[list[str]]:
    """The cells of each row of each table, without heads and rules."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        is_head = number + 1 < len(lines) and lines[number + 1].startswith("|--")
        if line.startswith("| ") and not is_head:
            yield [cell.strip() for cell in line.strip("|").split("|")]


def words_of(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def blocks_of(file: Path, language: str) -> list[str]:
    """The fenced blocks in a language."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", text_of(file))


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (subparsers,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(subparsers.choices)


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings} - {"-h", "--help"}


def expected_commands() -> dict[str, set[str]]:
    """Each command line that there is, and its options."""
    expected = {}
    for program, parser in PARSERS.items():
        expected[program] = options_of(parser)
        expected |= {f"{program} {name}": options_of(command) for name, command in commands_of(parser).items()}
    return expected


# Commands


def test_every_command_and_no_other_is_described() -> None:
    """Whoever looks for a command finds it, and finds none that is gone."""
    described = [heading for heading in sections_of(DOCS / "commands.md") if heading.startswith("urbansound")]

    assert sorted(described) == sorted(expected_commands())


@pytest.mark.parametrize("command", expected_commands())
def test_every_option_and_no_other_is_described(command: str) -> None:
    """The options in a command's table are those that it takes."""
    rows = rows_of(sections_of(DOCS / "commands.md")[command])
    described = [words_of(row[0])[0].split()[0] for row in rows if row[0].startswith("`--")]

    assert sorted(described) == sorted(expected_commands()[command])


def test_every_exit_code_and_no_other_is_described() -> None:
    """Who writes a script or a unit finds what each exit code means."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AgentError)]
    expected = {kind.exit_code for kind in kinds} | {0, SOME_FAILED, SIGHUP_CODE, SIGINT_CODE, SIGTERM_CODE}
    described = [int(row[0]) for row in rows_of(sections_of(DOCS / "commands.md")["Exit codes"])]

    assert sorted(described) == sorted(expected)
    for code in re.findall(r"exit code (\d+)", " ".join(map(text_of, DOCUMENTS))):
        assert int(code) in expected


def test_fields_of_finished_events_are_described() -> None:
    """Each column that `replay` writes has its unit and meaning."""
    rows = [row for row in rows_of(sections_of(DOCS / "commands.md")["urbansound replay"]) if row[0][:3] != "`--"]
    described = [word for row in rows for word in words_of(row[0])]

    assert sorted(described) == sorted(EVENT_COLUMNS)


def test_columns_of_levels_are_described() -> None:
    """Each column that `levels` writes is named in its section."""
    section = sections_of(DOCS / "commands.md")["urbansound levels"]

    assert all(f"`{','.join(columns)}`" in section for columns in (LEVEL_COLUMNS, INTERVAL_COLUMNS))


def shell_lines() -> list[tuple[str, str]]:
    """Every line in the documents that calls one of our programs."""
    found = []
    for file in DOCUMENTS:
        for line in "".join(blocks_of(file, "sh")).splitlines():
            for part in re.split(r"[|>]", line):
                words = [word for word in shlex.split(part) if not word.startswith("URBANSOUND_")]
                if words and words[0] in PARSERS:
                    found.append((file.name, shlex.join(words)))
    return found


@pytest.mark.parametrize(("file", "line"), shell_lines())
def test_command_lines_can_be_typed_as_they_stand(file: str, line: str) -> None:
    """Examples are not refused by the command line that they are for."""
    program, *arguments = shlex.split(line)

    PARSERS[program].parse_args(arguments)


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_commands_named_in_the_text_exist(file: Path) -> None:
    """No document sends a reader to a command that is not there."""
    for program, command in re.findall(r"`(urbansound(?:-model)?) ([a-z][a-z0-9-]*)", text_of(file)):
        assert command in commands_of(PARSERS[program])


# Configuration


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_settings_in_the_documents_are_taken(file: Path, tmp_path: Path) -> None:
    """TOML that is copied from a document, or a variable, is a configuration that the agent takes."""
    for number, block in enumerate(blocks_of(file, "toml")):
        copied = tmp_path / f"{number}.toml"
        copied.write_text(block, encoding="utf-8")
        load_config(copied, {})
    for name, value in re.findall(r"(URBANSOUND_\w+__\w+)=([^\s`]+)", text_of(file)):
        load_config(None, {name: value})


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_keys_named_in_the_documents_exist(file: Path) -> None:
    """`section.key` in a document is a key of the configuration."""
    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    for section, key in re.findall(r"`([a-z]+)\.([a-z_]+)[` ]", text_of(file)):
        part = sections.get(section)
        if isinstance(part, type) and issubclass(part, BaseModel) and f"{section}.{key}" not in NOT_KEYS:
            assert key in part.model_fields, f"{section}.{key}"


# MQTT


def leaves_of(model: type[BaseModel], *, parts: dict[str, type[BaseModel]]) -> set[str]:
    """The fields of a message as they are sent, those of its parts with a dot."""
    leaves = set()
    for name, field in model.model_fields.items():
        if name in parts:
            leaves |= {f"{name}.{leaf}" for leaf in parts[name].model_fields}
        else:
            leaves.add(field.alias or name)
    return leaves


@pytest.mark.parametrize(
    ("heading", "model", "parts"),
    [
        ("Event", EventMessage, {"level": LevelPart, "model": ModelIdentity, "quality": Quality}),
        ("Gap", GapMessage, {"quality": Quality}),
        ("Level", LevelMessage, {"quality": Quality}),
        ("Health", HealthMessage, {"liveness": LivenessPart}),
        (
            "Info",
            InfoMessage,
            {
                "model": ModelIdentity,
                "accelerator": AcceleratorInfo,
                "sources": SourceInfo,
                "liveness": LivenessPart,
            },
        ),
    ],
)
def test_every_field_of_a_message_and_no_other_is_described(
    heading: str, model: type[BaseModel], parts: dict[str, type[BaseModel]]
) -> None:
    """Who reads the messages finds each field with its unit."""
    rows = [row for row in rows_of(sections_of(DOCS / "mqtt.md")[heading]) if len(row) == 3]
    described = [words_of(row[0])[0] for row in rows if words_of(row[0])[0] not in get_args(State)]

    assert sorted(described) == sorted(leaves_of(model, parts=parts))


def test_every_reason_and_state_is_described() -> None:
    """Each `end_reason` has its meaning; the three states are named."""
    section = sections_of(DOCS / "mqtt.md")["Event"]
    reasons = {reason for part in get_args(WireEndReason) for reason in get_args(part)}

    assert sorted(words_of(row[0])[0] for row in rows_of(section) if len(row) == 2) == sorted(reasons)
    assert set(get_args(EventState)) <= set(words_of(section))


def test_every_state_and_cause_of_liveness_is_described() -> None:
    """Each state that `liveness` can be in has its causes, and each cause of a gap its meaning."""
    rows = list(rows_of(sections_of(DOCS / "mqtt.md")["Health"]))
    states = [row for row in rows if words_of(row[0])[0] in get_args(State)]
    causes = {word for row in states for word in words_of(row[2])}
    gaps = [words_of(row[0])[0] for row in rows_of(sections_of(DOCS / "mqtt.md")["Gap"]) if len(row) == 2]

    assert sorted(words_of(row[0])[0] for row in states) == sorted(get_args(State))
    assert causes == set(get_args(Cause))
    assert sorted(gaps) == sorted(get_args(GapCause))


def test_every_topic_and_no_other_is_described() -> None:
    """The topics are those that the agent publishes to."""
    topics = Topics("<prefix>", "<node>")
    section = sections_of(DOCS / "mqtt.md")["Topics"]

    assert [words_of(row[0])[0] for row in rows_of(section)] == [
        topics.status,
        topics.info,
        topics.health,
        topics.event("<source>"),
        topics.gap("<source>"),
        topics.level("<source>"),
    ]
    assert f"`{watched_topics(Config().mqtt.prefix)[0]}`" in section


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_examples_of_messages_are_as_they_are_sent(file: Path) -> None:
    """An example in a document is what the agent would send, to the last key and in its order."""
    models: dict[str, type[WirePart]] = {
        "urbansound.event/1": EventMessage,
        "urbansound.gap/1": GapMessage,
        "urbansound.level/1": LevelMessage,
        "urbansound.health/1": HealthMessage,
        "urbansound.info/1": InfoMessage,
    }
    for block in blocks_of(file, "json"):
        example = json.loads(block)

        sent = json.loads(models[example["schema"]].model_validate(example).to_json())

        assert list(sent.items()) == list(example.items())


def test_the_event_id_of_the_example_fits_its_time() -> None:
    """The example is a UUIDv7 made from its own start."""
    (event, *_) = (json.loads(block) for block in blocks_of(DOCS / "mqtt.md", "json"))
    message = EventMessage.model_validate(event)

    assert message.event_id.version == 7
    assert message.event_id.int >> 80 == round(message.start.timestamp() * 1000)


# The model


def test_every_field_of_the_card_and_no_other_is_described() -> None:
    """Who writes a `model.json` finds each field, and each number of an event."""
    described = [
        words for row in rows_of(sections_of(DOCS / "model.md")["`model.json`"]) if (words := words_of(row[0]))
    ]
    parts: dict[str, type[BaseModel]] = {"front_end": FrontEndNumbers, "events": EventCard}
    names = leaves_of(ModelCard, parts=parts) | set(EventNumbers.model_fields)
    assert sorted(word for words in described for word in words) == sorted(names)
    (networks,) = (row for row in rows_of(text_of(DOCS / "model.md")) if row[0].startswith("`embedding`"))
    assert set(words_of(networks[2])) >= {*NetworkCard.model_fields, *TensorCard.model_fields}


def test_the_labels_of_the_default_model_are_in_the_readme() -> None:
    """What the sensor can hear is said where one reads first."""
    card = load_model_folder(DEFAULT_MODEL).card

    for label in card.labels:
        assert label.replace("_", " ") in text_of(REPOSITORY / "README.md")


# The house


def test_the_table_of_modules_is_that_of_the_code() -> None:
    """ARCHITECTURE.md knows each module, and what it may import."""
    rows = list(rows_of(sections_of(REPOSITORY / "ARCHITECTURE.md")["Modules of `agent/`"]))
    described = {
        words_of(row[0])[0]: set() if row[2] == "–" else {name.strip() for name in row[2].split(",")} for row in rows
    }

    assert described == MAY_IMPORT
    assert described.keys() == {file.stem for file in (REPOSITORY / "agent").glob("*.py")} - {"__init__"}


def test_the_modules_of_model_export_are_those_of_the_code() -> None:
    """ARCHITECTURE.md knows each of them, and none that is gone."""
    rows = rows_of(sections_of(REPOSITORY / "ARCHITECTURE.md")["Modules of `model_export/`"])
    described = [name for row in rows for name in words_of(row[0])]

    assert sorted(described) == sorted(
        file.stem for file in (REPOSITORY / "model_export").glob("*.py") if file.stem != "__init__"
    )


def anchors_of(file: Path) -> set[str]:
    """The names of a document's headings, as links use them."""
    headings = re.findall(r"(?m)^#+ (.+)$", text_of(file))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_links_lead_somewhere(file: Path) -> None:
    """Every link within the project has its target."""
    for target in re.findall(r"\]\(([^)]+)\)", text_of(file)):
        path, _, anchor = target.partition("#")
        if target.startswith(EXTERNAL):
            continue
        linked = (file.parent / path).resolve() if path else file
        assert linked.exists(), target
        assert not anchor or anchor in anchors_of(linked), target


@pytest.mark.parametrize("file", sorted((DOCS / "adr").glob("*.md")), ids=lambda file: file.name)
def test_a_decision_is_numbered_dated_and_short(file: Path) -> None:
    """A decision has its number, its date, and fits one screen."""
    lines = text_of(file).splitlines()

    assert re.fullmatch(rf"# {int(file.name[:4])}\. .+", lines[0])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d, (accepted|replaced by .+)", lines[2])
    assert len(lines) < 40


def test_the_version_has_its_entry_in_the_changelog() -> None:
    """What is installed is what the changelog begins with."""
    version = tomllib.loads(text_of(REPOSITORY / "pyproject.toml"))["project"]["version"]

    assert next(iter(sections_of(REPOSITORY / "CHANGELOG.md"))).startswith(f"[{version}]")
