"""`make faults` and `make soak`: break the agent, and print what became of it.

Out: a table on standard output: fault, tries, noticed after, recovered after, lost, duplicated. What went wrong is said
on standard error as it happens, and the files of it are kept. Exit codes: 0 every promise was kept · 1 one was not · 69
something to install is missing · 130 interrupted.
"""

import argparse
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from agent.errors import AgentError
from faults.deaf import NEVER, Deafness, make_deaf
from faults.delivery import Outcome, break_delivery
from faults.powercut import Cut, cut_power
from faults.soak import GROWTH_LIMIT, Hour, growth, soak

CUT_SHARE = 0.2  # of the delivery faults
NOTICED_LIMIT_S = 10.0
HEAD = "| fault | tries | noticed after (s) | recovered after (s) | lost | duplicated |\n|---|---|---|---|---|---|"
SPOOL_LIMIT_BYTES = 64 << 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m faults", description="Proof by breaking things.")
    parser.add_argument("--faults", type=int, default=40, metavar="N", help="of delivery, power cuts among them")
    parser.add_argument("--deaf", type=int, default=1, metavar="N", help="how often each cause of deafness is tried")
    parser.add_argument("--soak", type=_hours, metavar="HOURS", help="instead: so many hours of sound in one go")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="another one breaks things at other instants")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminated)
    folder = Path(tempfile.mkdtemp(prefix="urbansound-faults-"))
    kept = False
    try:
        if options.soak is not None:
            kept = not _soak(options.soak, options.seed, folder)
        else:
            kept = not _campaign(options.faults, options.deaf, options.seed, folder)
    except AgentError as error:
        print(f"faults: {error}", file=sys.stderr)
        kept = error.exit_code == AgentError.exit_code
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    finally:
        if kept:
            _say(f"files: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return int(kept)


def _hours(text: str) -> int:
    hours = int(text)
    if hours < 1:
        raise argparse.ArgumentTypeError(f"{text}, expected at least 1")
    return hours


def _terminated(number: int, _frame: FrameType | None) -> NoReturn:
    """Leave as after Ctrl-C, so that the children are ended."""
    raise SystemExit(128 + number)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _campaign(n_faults: int, n_deaf: int, seed: int, folder: Path) -> bool:
    began_s = time.monotonic()
    n_cuts = round(n_faults * CUT_SHARE)
    outcomes: list[Outcome] = []
    cuts: list[Cut] = []
    deafness: list[Deafness] = []
    if n_faults:
        (folder / "delivery").mkdir()
        cuts = list(cut_power(n_cuts, seed, folder / "power", _say))
        outcomes = break_delivery(n_faults - n_cuts, seed, folder / "delivery", _say)
    if n_deaf:
        (folder / "deaf").mkdir()
        deafness = make_deaf(n_deaf, seed, folder / "deaf", _say)
    print(HEAD)
    for line in [*delivery_rows(outcomes), *power_rows(cuts), *deaf_rows(deafness)]:
        print(line)
    n_faults = sum(len(outcome.faults) for outcome in outcomes)
    lost, duplicated = lost_and_duplicated(outcomes, cuts)
    print(
        f"\n{n_faults} faults of delivery in {len(outcomes)} runs and {len(cuts)} power cuts, seed {seed}: "
        f"{sum(each.told for each in outcomes)} messages told, {lost} lost, {duplicated} duplicated, "
        f"{sum(each.repeated for each in outcomes)} repeated with the same seq; {time.monotonic() - began_s:.0f} s"
    )
    return promises_kept(outcomes, cuts, deafness)


def lost_and_duplicated(outcomes: Sequence[Outcome], cuts: Sequence[Cut]) -> tuple[int, int]:
    """How much in all."""
    lost = sum(outcome.lost for outcome in outcomes) + sum(cut.lost for cut in cuts)
    return lost, sum(outcome.duplicated for outcome in outcomes) + sum(cut.duplicated for cut in cuts)


def promises_kept(outcomes: Sequence[Outcome], cuts: Sequence[Cut], deafness: Sequence[Deafness]) -> bool:
    """Whether nothing was lost, nothing came as two, and all deaf time was said in time and ended by itself."""
    return (
        lost_and_duplicated(outcomes, cuts) == (0, 0)
        and not any(outcome.problems for outcome in outcomes)
        and all(each.noticed_s <= NOTICED_LIMIT_S and each.recovered_s < NEVER for each in deafness)
        and not any(each.problems for each in deafness)
    )


def delivery_rows(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """A row for each kind of fault. A run has several faults; what it lost is told with each kind that was in it."""
    kinds = sorted({fault.kind for outcome in outcomes for fault in outcome.faults})
    for kind in kinds:
        faults = [fault for outcome in outcomes for fault in outcome.faults if fault.kind == kind]
        runs = [outcome for outcome in outcomes if kind in {fault.kind for fault in outcome.faults}]
        noticed = [fault.noticed_s for fault in faults if fault.noticed_s is not None]
        recovered = [fault.recovered_s for fault in faults if fault.recovered_s is not None]
        lost, duplicated = sum(run.lost for run in runs), sum(run.duplicated for run in runs)
        yield f"| {kind} | {len(faults)} | {_spread(noticed)} | {_spread(recovered)} | {lost} | {duplicated} |"


def power_rows(cuts: Sequence[Cut]) -> Iterator[str]:
    """A row for all power cuts."""
    if cuts:
        yield f"| power cut | {len(cuts)} | – | – | {sum(c.lost for c in cuts)} | {sum(c.duplicated for c in cuts)} |"


def deaf_rows(deafness: Sequence[Deafness]) -> Iterator[str]:
    """A row for each cause of deafness."""
    for kind in dict.fromkeys(each.kind for each in deafness):
        tries = [each for each in deafness if each.kind == kind]
        noticed, recovered = _spread([each.noticed_s for each in tries]), _spread([each.recovered_s for each in tries])
        said = ", ".join(sorted({each.said or "nothing" for each in tries}))
        yield f"| {kind}: said as {said} | {len(tries)} | {noticed} | {recovered} | – | – |"


def _spread(values: Sequence[float]) -> str:
    """Median and largest of some seconds."""
    if not values:
        return "–"
    middle, largest = statistics.median(values), max(values)
    return f"{middle:.1f}" if len(values) == 1 else f"{middle:.1f}, at most {largest:.1f}"


def _soak(n_hours: int, seed: int, folder: Path) -> bool:
    print("| hour | memory (MiB) | private (MiB) | descriptors | spool (MiB) | messages | took (s) |")
    print("|---|---|---|---|---|---|---|")
    hours: list[Hour] = []
    for hour in soak(n_hours, seed, folder):
        hours.append(hour)
        print(
            f"| {hour.hour} | {hour.memory_bytes / 2**20:.2f} | {hour.private_bytes / 2**20:.2f} | {hour.descriptors} "
            f"| {hour.spool_bytes / 2**20:.2f} | {hour.told} | {hour.took_s:.0f} |",
            flush=True,
        )
    grown, leaked = growth(hours), max(hour.descriptors for hour in hours) - hours[0].descriptors
    largest = max(hour.spool_bytes for hour in hours)
    print(
        f"\nafter the first hour: memory +{grown:.2%} at most, {leaked} more descriptors, spool at most "
        f"{largest / 2**20:.1f} MiB"
    )
    return grown < GROWTH_LIMIT and leaked <= 0 and largest < SPOOL_LIMIT_BYTES


if __name__ == "__main__":
    sys.exit(main())
