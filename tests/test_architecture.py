"""ARCHITECTURE.md's table, held to the code: who may know whom, and one owner for each outside thing."""

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# What each module of the agent may import from the agent: data goes right and never back.
STAGES = {"aggregation", "events", "frontend", "inference", "level"}
MAY_IMPORT = {
    "values": set(),
    "errors": set(),
    "config": {"errors", "model_card"},
    "model_card": {"errors", "values"},
    "clock": set(),
    "mono": {"values"},
    "portaudio": {"errors", "mono", "values"},
    "capture": {"errors", "mono", "portaudio", "ring", "values"},
    "archive": {"errors"},
    "recordings": {"errors"},
    "integrity": {"archive", "errors"},
    "pcm": {"values"},
    "wavfile": {"archive", "errors", "integrity", "mono", "pcm", "values"},
    "parquet": {"errors"},
    "ring": {"values"},
    "numerics": {"values"},
    "resampler": {"values"},
    "frontend": {"errors", "model_card", "numerics", "resampler", "values"},
    "litert": {"errors"},
    "inference": {"errors", "litert", "model_card", "values"},
    "accelerator": {"inference", "litert", "model_card", "values"},
    "aggregation": {"values"},
    "level": {"numerics", "values"},
    "calibration": {"condition", "errors", "level", "mono", "portaudio", "values"},
    "intervals": {"clock", "coverage", "level", "values"},
    "events": {"values"},
    "pace": set(),
    "pipeline": {"errors", "values"} | STAGES,
    "wire": {"clock", "values"},
    "messages": {"clock", "level", "values", "wire"},
    "home_assistant": {"liveness", "values", "wire"},
    "database": {"errors"},
    "shelf": {"database", "errors"},
    "spool": {"clock", "errors", "shelf"},
    "credentials": {"errors"},
    "broker": {"errors"},
    "publisher": {"broker", "errors", "shelf", "spool"},
    "health": set(),
    "condition": {"values"},
    "coverage": set(),
    "hours": {"coverage", "database", "errors", "values"},
    "accounts": {"clock", "condition", "coverage", "hours", "values"},
    "liveness": set(),
    "timesheet": {"clock", "condition", "coverage", "values"},
    "lookout": {"accounts", "capture", "clock", "coverage", "health", "liveness", "values", "wire"},
    "logs": set(),
    "progress": {"printout"},
    # The builder; then the two ways to run what it built, and what a person sees.
    "stop": set(),
    "app": {"accelerator", "config", "errors", "litert", "model_card", "values", "wire"} | STAGES,
    "outbox": {
        "app",
        "broker",
        "clock",
        "config",
        "credentials",
        "errors",
        "home_assistant",
        "messages",
        "publisher",
        "shelf",
        "spool",
        "stop",
    }
    | {"values", "wire"},
    "workers": {"app", "config", "errors", "level", "mono", "pipeline", "resampler", "stop", "values", "wavfile"},
    "cluster": {"app", "config", "errors", "workers"},
    "replay": {
        "app",
        "clock",
        "errors",
        "intervals",
        "level",
        "pipeline",
        "stop",
        "timesheet",
        "values",
        "wavfile",
        "workers",
    },
    "sensor": {"accounts", "app", "capture", "clock", "config", "errors", "health", "hours", "intervals"}
    | {"liveness", "lookout", "outbox", "pace", "pipeline", "reload", "ring", "stop", "values"},
    "reload": {"app", "broker", "config", "errors", "outbox"},
    "figures": {"accelerator"},
    "bench": {"accelerator", "app", "config", "errors", "figures", "inference", "pipeline", "replay", "stop", "values"}
    | {"wavfile"},
    "arguments": {"archive", "pcm", "wavfile"},
    "printout": {"errors", "parquet", "wire"},
    "cli": {
        "app",
        "archive",
        "arguments",
        "bench",
        "broker",
        "calibration",
        "clock",
        "cluster",
        "config",
        "errors",
        "figures",
        "hours",
        "level",
    }
    | {
        "logs",
        "messages",
        "outbox",
        "portaudio",
        "printout",
        "progress",
        "recordings",
        "replay",
        "sensor",
        "stop",
        "timesheet",
    }
    | {"values", "wavfile", "wire", "workers"},
}

OWNERS = {
    "sounddevice": "portaudio",
    "soundfile": "wavfile",
    "fsspec": "archive",
    "pyarrow": "parquet",
    "distributed": "cluster",
    "scipy": "numerics",
    "soxr": "resampler",
    "ai_edge_litert": "litert",
    "sqlite3": "database",
    "paho": "broker",
    "tomllib": "config",
}
WALL_CLOCK = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}

AGENT = sorted((REPOSITORY / "agent").glob("*.py"))
MODEL_EXPORT = sorted((REPOSITORY / "model_export").glob("*.py"))


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def imports_of(file: Path) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def neighbours_of(file: Path, package: str) -> set[str]:
    """Modules of a package that a file imports."""
    return {name.split(".")[1] for name in imports_of(file) if name.startswith(f"{package}.")}


@pytest.mark.parametrize("file", AGENT, ids=lambda file: file.stem)
def test_a_module_knows_only_its_neighbours(file: Path) -> None:
    """No module imports another that the table does not allow it, and none imports `model_export`."""
    modules = {other.stem for other in AGENT}
    assert file.stem in MAY_IMPORT or file.stem == "__init__", (
        f"{file.name} is not in the table: say what it may import"
    )

    assert (neighbours_of(file, "agent") & modules) - MAY_IMPORT.get(file.stem, set()) == set()
    assert neighbours_of(file, "model_export") == set()


@pytest.mark.parametrize("thing", OWNERS)
def test_an_outside_thing_has_one_owner(thing: str) -> None:
    """Sound card, files, networks, broker, database and configuration are each touched by one module."""
    users = {file.stem for file in AGENT if any(name.split(".")[0] == thing for name in imports_of(file))}

    assert users == {OWNERS[thing]}


def test_the_wall_clock_has_one_owner() -> None:
    """Only `clock` asks what time it is; all else counts samples or uses the monotonic clock."""
    users = {
        file.stem
        for file in AGENT
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Attribute) and ".".join(ast.unparse(node).split(".")[-2:]) in WALL_CLOCK
    }

    assert users == {"clock"}


@pytest.mark.parametrize("file", [*AGENT, *MODEL_EXPORT], ids=lambda file: f"{file.parent.name}.{file.stem}")
def test_every_module_has_its_tests(file: Path) -> None:
    """Whoever reads a module finds its promises: `tests/test_x.py`, or `tests/model_export/test_x.py`."""
    folder = REPOSITORY / "tests" / ("model_export" if file.parent.name == "model_export" else "")

    assert file.stem == "__init__" or (folder / f"test_{file.stem}.py").is_file()


@pytest.mark.parametrize("file", [*AGENT, *MODEL_EXPORT], ids=lambda file: f"{file.parent.name}.{file.stem}")
def test_every_module_says_what_it_is(file: Path) -> None:
    """A file begins with what it is, and no file is a drawer for odds and ends."""
    assert ast.get_docstring(tree_of(file))
    assert file.stem not in {"utils", "common", "helpers", "manager", "base"}
