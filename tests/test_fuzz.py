"""Promises of `fuzz`: it finds what crashes, and a short run of each target finds nothing."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.__main__ import SHARES, in_a_child
from fuzz.seeds import SEEDS
from fuzz.targets import Targets
from tests.conftest import REPOSITORY

needs_atheris = pytest.mark.skipif(platform.machine() != "x86_64", reason="atheris has wheels for x86_64 only")
SHORT = 300


@pytest.mark.parametrize("target", SEEDS)
def test_each_target_takes_its_seeds_and_what_is_cut_from_them(target: str) -> None:
    """Good inputs, their halves and nothing at all crash nothing."""
    with Targets() as targets:
        for seed in SEEDS[target]():
            for data in (seed, seed[: len(seed) // 2], seed[len(seed) // 3 :], b""):
                targets.by_name[target](data)


@needs_atheris
@pytest.mark.parametrize("target", SHARES)
def test_a_short_run_finds_no_crash(target: str) -> None:
    """Some hundred inputs for each parser; `make fuzz COUNT=1000000` tries more."""
    tried, _, problem = in_a_child(target, SHORT, seed=1)

    assert problem is None
    assert tried >= SHORT


@needs_atheris
@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("if b'Z' in data: raise KeyError(data)", "KeyError"),
        ("if b'Z' in data: bytearray(8 << 30)", "MemoryError"),  # a length that a file only claims
    ],
)
def test_a_crash_is_found_and_kept(tmp_path: Path, does: str, said: str) -> None:
    """A parser that fails on a certain byte is found out; the input is kept, and the exit code is not 0."""
    script = (
        "import fuzz.targets, fuzz.__main__ as main\n"
        "def name(self, data):\n"
        f"    {does}\n"
        "fuzz.targets.Targets.name = name\n"
        "main.fuzz('name', 1000, 1)\n"
    )
    (tmp_path / "build" / "fuzz").mkdir(parents=True)

    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode != 0
    assert f"Uncaught Python exception: ===\n{said}" in ended.stdout
    assert b"Z" in next((tmp_path / "build" / "fuzz").glob("name-crash-*")).read_bytes()


@needs_atheris
def test_the_memory_of_who_starts_it_is_no_crash() -> None:
    """The most that a process ever had goes over to those that it starts; the target has not asked for it."""
    script = (
        "import fuzz.__main__ as main\n"
        "bytearray(b'x') * (main.MEMORY_MB + 100 << 20)\n"
        "print(main.in_a_child('spool', 2000, seed=1)[2])\n"  # long enough for the fuzzer to look
    )

    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True
    )

    assert ended.stdout == "None\n"
