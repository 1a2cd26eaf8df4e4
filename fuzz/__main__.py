"""`make fuzz`: inputs as broken as they can be, guided by what of the agent they reach.

Out: a line for each target, on standard output: inputs tried, how many a second. An input that crashes a target is kept
in `build/fuzz/`. Each target runs in a process of its own: the fuzzer (libFuzzer, through atheris) ends its process,
and so does a crash. Exit codes: 0 no crash · 1 a crash · 2 usage.
"""

import argparse
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

KEPT = Path("build") / "fuzz"

# How inputs are shared out, in parts of the whole: by what one costs, and how much there is to find.
SHARES = {
    "configuration": 0.22,
    "recording": 0.15,
    "name": 0.05,
    "card": 0.15,
    "packets": 0.15,
    "message": 0.25,
    "spool": 0.02,
    "coverage": 0.01,
}
LONGEST_BYTES = 65_536
LIMIT_S = 20  # for one input
MEMORY_MB = 3000  # what asks for more is a crash


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Broken inputs for every parser of the agent.")
    parser.add_argument("--count", type=int, default=20_000, metavar="N", help="inputs, of all targets together")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="another one tries other inputs")
    parser.add_argument("--target", choices=SHARES, help="this one alone, with all of the count")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # inside the child
    options = parser.parse_args(arguments)
    KEPT.mkdir(parents=True, exist_ok=True)
    if options.here:
        fuzz(options.target, options.count, options.seed)
    shares = SHARES if options.target is None else {options.target: 1.0}
    total = sum(shares.values())
    print("| target | inputs | inputs/s | crashes |\n|---|---|---|---|")
    crashed = False
    for target, share in shares.items():
        tried, took_s, problem = in_a_child(target, max(1, round(options.count * share / total)), options.seed)
        print(f"| {target} | {tried} | {tried / took_s:.0f} | {0 if problem is None else 1} |", flush=True)
        if problem is not None:
            crashed = True
            print(problem, file=sys.stderr)
    return int(crashed)


def in_a_child(target: str, count: int, seed: int) -> tuple[int, float, str | None]:
    """Fuzz one target.

    Returns:
        inputs tried, seconds, and what the fuzzer said if it found a crash.
    """
    began_s = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-m", "fuzz", "--here", "--target", target, "--count", str(count), "--seed", str(seed)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    took_s = time.monotonic() - began_s
    said = child.stderr + child.stdout  # the traceback is on standard output
    executed = re.search(r"stat::number_of_executed_units: *(\d+)", said)
    tried = int(executed[1]) if executed else 0
    return tried, took_s, None if child.returncode == 0 and tried >= count else said[-6000:]


def fuzz(target: str, count: int, seed: int) -> None:
    """Run one target in this process, and end it."""
    import atheris

    # The fuzzer's own limit is on the most memory that a process ever had, and that of the one that started it counts.
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_MB << 20, MEMORY_MB << 20))

    with atheris.instrument_imports(include=["agent", "tomllib", "paho", "json"]):
        from fuzz.seeds import SEEDS
        from fuzz.targets import Targets

    with tempfile.TemporaryDirectory(prefix="corpus-") as name, Targets() as targets:
        for number, seed_input in enumerate(SEEDS[target]()):
            (Path(name) / f"{number}").write_bytes(seed_input)
        atheris.Setup(
            [
                "fuzz",
                name,
                f"-runs={count}",
                f"-seed={seed}",
                f"-max_len={LONGEST_BYTES}",
                f"-timeout={LIMIT_S}",
                "-rss_limit_mb=0",
                f"-artifact_prefix={KEPT}/{target}-",
                "-print_final_stats=1",
            ],
            targets.by_name[target],
        )
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
