"""`make benchmark`: the agent beside YAMNet and OpenL3, and beside what a core can do at most.

Out: tables in Markdown, on standard output. Every system hears the same sound with one thread, in a process of its own,
with a window each 0.1 s. Times are processor time for a second of sound, the least of some rounds.
"""

import argparse
import functools
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

from agent.bench import bench, street
from agent.config import Config, ModelConfig
from agent.figures import Report, as_text
from agent.model_card import DEFAULT_MODEL, ModelFolder, load_model_folder
from agent.values import FloatArray
from benchmarks.limit import multiplications, peak_per_s
from benchmarks.live import listen, live_table
from benchmarks.systems import HOP_S, RATE_HZ, Measured, make_large, measure_agent, measure_openl3, measure_yamnet

BENCH_S = 20.0

T = TypeVar("T")
R = TypeVar("R")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="The agent beside its peers.")
    parser.add_argument("--yamnet", type=Path, metavar="FILE", help="YAMNet as TFLite: float32 (15600,) at 16 kHz")
    parser.add_argument("--seconds", type=int, default=20, metavar="S", help="of sound for each system (default: 20)")
    parser.add_argument("--live", type=int, metavar="S", help="listen with the whole agent for so long as well")
    options = parser.parse_args(arguments)
    if options.yamnet is not None and not options.yamnet.is_file():
        parser.error(f"--yamnet {options.yamnet}: no such file")  # its turn comes after minutes
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    report = bench(Config(), None, BENCH_S)
    print("```", as_text(report), "```", sep="\n")
    with tempfile.TemporaryDirectory(prefix="urbansound-large-") as folder:
        in_a_new_process(make_large, Path(folder))
        large_report = bench(Config(model=ModelConfig(path=Path(folder))), None, BENCH_S)
        peak = peak_per_s()
        print(f"The core does at most {peak / 1e9:.0f} G multiplications a second in int8, with large matrices.")
        print()
        for line in limit_table(
            [
                ("default", load_model_folder(DEFAULT_MODEL), report),
                ("as large as OpenL3", load_model_folder(Path(folder)), large_report),
            ],
            peak,
        ):
            print(line)
        print()
    works: list[Callable[[FloatArray], Measured]] = [
        functools.partial(measure_agent, "streaming", at_once=False),
        functools.partial(measure_agent, "streaming", at_once=True),
        functools.partial(measure_agent, "windowed", at_once=False),
    ]
    if options.yamnet is not None:
        works.append(functools.partial(measure_yamnet, options.yamnet))
    works.append(measure_openl3)
    sound = street(options.seconds, RATE_HZ)
    for line in peer_table([in_a_new_process(work, sound) for work in works]):
        print(line)
    if options.live is not None:
        print()
        for line in live_table(listen(options.live)):
            print(line)
    return 0


def limit_table(models: Sequence[tuple[str, ModelFolder, Report]], peak: float) -> Iterator[str]:
    """What the networks of each model need, against what the core could do: `peak` multiplications a second."""
    yield "| network, hop 0.1 s | M multiplications for 1 s | ms at that peak | ms measured | of the peak | less |"
    yield "|---|---|---|---|---|---|"
    for name, model, report in models:
        card, measured = model.card, report.networks
        assert card.streaming is not None
        assert model.streaming_file is not None
        chunk_s = card.streaming.chunk_frames * card.front_end.hop_length_samples / card.front_end.sample_rate_hz
        streaming = multiplications(model.streaming_file) / chunk_s
        windowed = multiplications(model.embedding_file) / HOP_S
        for form, count, ms in (
            ("windowed", windowed, measured.windowed_ms),
            ("streaming, hop by hop", streaming, measured.streaming_ms),
            ("streaming, as live", streaming, measured.streaming_live_ms),
            ("streaming, many at once", streaming, measured.streaming_at_once_ms),
        ):
            least_ms = 1000.0 * count / peak
            assert ms is not None
            yield (
                f"| {name}, {form} | {count / 1e6:.0f} | {least_ms:.2f} | {ms:.2f} | {least_ms / ms:.0%} | "
                f"{measured.windowed_ms / ms:.1f} |"
            )
        yield f"| {name}, the pipeline live | | | {1000.0 * report.live.cpu_share:.2f} | | |"


def peer_table(measured: Sequence[Measured]) -> Iterator[str]:
    """Systems in the order in which they were measured, each against the first."""
    yield "| system | ms for 1 s of sound | times real time | against the first | memory, MiB |"
    yield "|---|---|---|---|---|"
    for one in measured:
        yield (
            f"| {one.system} | {one.ms:.2f} | {1000.0 / one.ms:.1f} | {one.ms / measured[0].ms:.1f} | "
            f"{one.peak_mib:.0f} |"
        )


def in_a_new_process(work: Callable[[T], R], what: T) -> R:
    """No system pays for what another has loaded."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, what).result()


if __name__ == "__main__":
    sys.exit(main())
