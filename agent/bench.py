"""How fast the agent is on this machine: stage by stage, at the pace of a microphone, and as fast as it goes.

In: the configuration, and a recording or a sound made on the spot. Out: a `Report`. Called on the main thread by `cli`.
Times are processor time, the least of some rounds: what other programs do disturbs them least.
"""

import functools
import itertools
import multiprocessing
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import numpy as np

from agent import __version__, pipeline
from agent.accelerator import Trial, try_named
from agent.app import Judge
from agent.config import ACCELERATORS, Config
from agent.errors import RecordingError
from agent.figures import Live, Machine, Networks, Replay, Report
from agent.inference import Classifier
from agent.replay import replay
from agent.stop import Stop, end_with, ended_by_sigterm
from agent.values import AudioBlock, FloatArray, Prediction, Window
from agent.wavfile import open_recording, write_recording

SYNTHETIC = "made on the spot"
SYNTHETIC_S, SYNTHETIC_RATE_HZ = 60.0, 48_000
STAGES_MAX_S = 120.0  # of a recording, for the stages
LIVE_WINDOWS = 200  # judged one by one, for the networks
ROUNDS = 5
LIVE_SOUND_S = 10.0  # heard again and again
WARM_HOPS = 20
BLOCK_S = 0.2  # what `capture` reads at a time
LONG_S = 600.0  # such a recording is replayed once
FREE = 0.5  # of a core, for all else that a board does

T = TypeVar("T")


@ended_by_sigterm()
def bench(config: Config, file: Path | None, live_s: float) -> Report:
    """Measure; takes `live_s` and some seconds more.

    Args:
        config: the effective configuration.
        file: the recording to hear; None for one made on the spot.
        live_s: how long to hear at the pace of a microphone.

    Raises:
        AgentError: the configuration, the model or the recording cannot be used.
    """
    if file is not None:
        return _bench(config, file, str(file), live_s)
    with tempfile.TemporaryDirectory(prefix="urbansound-bench-") as folder:
        made = Path(folder) / "street.flac"
        write_recording(made, street(SYNTHETIC_S, SYNTHETIC_RATE_HZ), SYNTHETIC_RATE_HZ)
        return _bench(config, made, SYNTHETIC, live_s)


def street(duration_s: float, rate_hz: int) -> FloatArray:
    """Traffic-like noise that swells and fades, with a wail each ten seconds; the same each time."""
    rng = np.random.default_rng(1)
    n = round(duration_s * rate_hz)
    spectrum = np.fft.rfft(rng.normal(0.0, 1.0, n))
    pink = np.fft.irfft(spectrum / np.sqrt(1.0 + np.arange(len(spectrum)) / duration_s / 50.0), n)
    times_s = np.arange(n) / rate_hz
    swell = 10.0 ** (-1.5 + 0.5 * np.sin(2 * np.pi * times_s / 17.0))
    wail = 0.2 * np.sin(2 * np.pi * (900.0 * times_s + 150.0 * np.sin(2 * np.pi * 0.5 * times_s)))
    mixed: FloatArray = (pink / pink.std() * swell + wail * (times_s % 10.0 > 6.0)).astype(np.float32)
    return np.clip(mixed, -1.0, 1.0)


def _bench(config: Config, file: Path, name: str, live_s: float) -> Report:
    on_cpu = config.inference.model_copy(update={"accelerator": "cpu"})
    judge = Judge(config.model_copy(update={"inference": on_cpu}))
    card, hop_s = judge.model.card, config.inference.window_hop_s
    blocks, rate_hz = _first_blocks(file, STAGES_MAX_S)
    n_samples, least = sum(len(block.samples) for block in blocks), round(card.front_end.window_s * rate_hz)
    if n_samples < least:
        problem = f"{n_samples} samples can be read, expected at least {least}, which make a window"
        raise RecordingError(f"{file}: {problem}")
    windows = _windows(judge, blocks, rate_hz)
    live = _in_a_new_process(_live, config, file, live_s)
    networks = _networks(judge, windows, hop_s)
    replayed = _in_a_new_process(_replay, config, file)
    front_end_ms = _front_end_ms(judge, _short(blocks, rate_hz), rate_hz)
    return Report(
        schema="urbansound.bench/1",
        machine=Machine(
            processor=_processor(),
            cores=len(os.sched_getaffinity(0)),
            system=f"{platform.system()} {platform.release()}",
            python=platform.python_version(),
            litert=version("ai-edge-litert"),
            agent=__version__,
        ),
        model=f"{card.name} {card.version}",
        form="streaming" if judge.accelerator.streaming else "windowed",
        sound=name,
        sample_rate_hz=rate_hz,
        window_hop_s=hop_s,
        live=live,
        networks=networks,
        replay=replayed,
        accelerators=_accelerators(judge, config.inference.accelerator),
        shortest_hop_s=_shortest_hop_s(judge, networks, replayed, front_end_ms),
    )


def _in_a_new_process(measure: Callable[..., T], *arguments: object) -> T:
    """Memory can only be told of a process that did nothing else. It ends when this one does not wait for it."""
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    with theirs, ours, ProcessPoolExecutor(1, context, initializer=end_with, initargs=(theirs,)) as pool:
        try:
            return pool.submit(measure, *arguments).result()
        except BaseException:  # raised again: meanwhile the pool would wait for what nobody wants
            ours.close()
            raise


def _first_blocks(file: Path, duration_s: float) -> tuple[list[AudioBlock], int]:
    """The beginning of a recording, and its rate."""
    with open_recording(file) as recording:
        rate_hz = recording.sample_rate_hz
        n_blocks = max(1, round(duration_s * rate_hz / recording.long_block))
        return list(itertools.islice(recording.blocks(recording.long_block), n_blocks)), rate_hz


def _short(blocks: Sequence[AudioBlock], rate_hz: int) -> list[AudioBlock]:
    """The same sound as a microphone hands it over."""
    samples, n = np.concatenate([block.samples for block in blocks]), rate_hz // 10
    return [AudioBlock(samples[first : first + n], first) for first in range(0, len(samples), n)]


def _accelerators(judge: Judge, asked: str) -> tuple[Trial, ...]:
    """Each by its name, and the delegate that is configured."""
    names = dict.fromkeys((*ACCELERATORS, asked))
    return tuple(try_named(name, judge.model, forms=judge.forms) for name in names if name not in ("auto", "cpu"))


def _live(config: Config, file: Path, live_s: float) -> Live:
    judge = Judge(config, live=True)
    blocks, rate_hz = _first_blocks(file, LIVE_SOUND_S)
    stages, short = judge.stages(rate_hz), _short(blocks, rate_hz)
    work_s: list[float] = []
    marks: list[tuple[float, float]] = []  # (wall, processor), each hop

    def heard() -> Iterator[AudioBlock]:
        begun_s = time.perf_counter()
        for number in range(round(live_s * 10)):
            block = short[number % len(short)]
            due_s = begun_s + (number + 1) / 10
            time.sleep(max(0.0, due_s - time.perf_counter()))
            marks.append((time.perf_counter(), time.process_time()))
            yield AudioBlock(block.samples, number * (rate_hz // 10))
            work_s.append(time.perf_counter() - marks[-1][0])

    pipeline.run(
        heard(),
        stages.front_end,
        judge.classifier,
        stages.aggregator,
        stages.detector,
        emit=lambda _event: None,
        levels=stages.levels,
    )
    work_ms = 1000.0 * np.array(work_s[WARM_HOPS:])
    (from_s, from_cpu_s), (to_s, to_cpu_s) = marks[WARM_HOPS], marks[-1]
    p50, p95, p99 = np.percentile(work_ms, [50, 95, 99])
    return Live(
        accelerator=judge.accelerator.name,
        hops=len(work_ms),
        work_p50_ms=float(p50),
        work_p95_ms=float(p95),
        work_p99_ms=float(p99),
        work_max_ms=float(work_ms.max()),
        cpu_share=(to_cpu_s - from_cpu_s) / (to_s - from_s),
        resident_mib=_memory_mib("VmRSS"),
    )


def _windows(judge: Judge, blocks: Sequence[AudioBlock], rate_hz: int) -> list[Window]:
    front_end = judge.stages(rate_hz).front_end
    windows = (window for block in blocks for window in front_end.push(block))
    return list(itertools.islice(itertools.chain(windows, front_end.flush()), LIVE_WINDOWS))


def _networks(judge: Judge, windows: Sequence[Window], window_hop_s: float) -> Networks:
    sound_s = len(windows) * window_hop_s
    windowed, streaming = Classifier(judge.model), Classifier(judge.model, streaming=judge.streams)
    windowed_ms = _least_ms(lambda: [windowed.embed([window]) for window in windows], sound_s)
    streaming_ms = live_ms = at_once_ms = None
    if judge.streams:

        def by(n: int) -> float:
            parts = [windows[first : first + n] for first in range(0, len(windows), n)]
            return _least_ms(lambda: [streaming.embed(part) for part in parts], sound_s)

        streaming_ms, live_ms, at_once_ms = by(1), by(max(1, round(BLOCK_S / window_hop_s))), by(len(windows))
    embeddings = windowed.embed(windows)
    return Networks(
        windowed_ms=windowed_ms,
        streaming_ms=streaming_ms,
        streaming_live_ms=live_ms,
        streaming_at_once_ms=at_once_ms,
        ratio=windowed_ms / streaming_ms if streaming_ms else None,
        ratio_live=windowed_ms / live_ms if live_ms else None,
        ratio_at_once=windowed_ms / at_once_ms if at_once_ms else None,
        classifier_ms=_least_ms(lambda: [windowed.judge(embedding[np.newaxis]) for embedding in embeddings], sound_s),
    )


def _front_end_ms(judge: Judge, blocks: Sequence[AudioBlock], rate_hz: int) -> float:
    def work() -> None:
        front_end = judge.stages(rate_hz).front_end
        for block in blocks:
            for _ in front_end.push(block):
                pass

    return _least_ms(work, sum(len(block.samples) for block in blocks) / rate_hz)


def _replay(config: Config, file: Path) -> Replay:
    judge = Judge(config)
    blocks, rate_hz = _first_blocks(file, LIVE_SOUND_S)
    model_rate_hz = judge.model.card.front_end.sample_rate_hz
    resample_ms = 0.0
    if rate_hz != model_rate_hz:
        n_blocks, n = len(blocks), len(blocks[0].samples) * model_rate_hz // rate_hz
        silence = [AudioBlock(np.zeros(n, np.float32), number * n) for number in range(n_blocks)]
        without = _front_end_ms(judge, silence, model_rate_hz)
        resample_ms = max(0.0, _front_end_ms(judge, blocks, rate_hz) - without)
    with open_recording(file) as recording:
        duration_s = sum(len(block.samples) for block in recording.blocks(recording.long_block)) / rate_hz
    rounds = [_stages_ms(judge, file) for _ in range(ROUNDS)]
    least = min(rounds, key=lambda stages: sum(stages.values()))

    def whole() -> None:
        with open_recording(file) as recording:
            replay(recording, judge, lambda _event: None, stop=Stop())

    whole_ms = _least_ms(whole, duration_s, rounds=ROUNDS if duration_s < LONG_S else 1)
    return Replay(
        decode_ms=least["decode"],
        levels_ms=least["levels"],
        resample_ms=resample_ms,
        front_end_ms=max(0.0, least["front_end"] - resample_ms),
        networks_ms=least["networks"],
        events_ms=least["events"],
        whole_ms=whole_ms,
        times_real_time=1000.0 / whole_ms,
        peak_mib=_memory_mib("VmHWM"),
    )


def _stages_ms(judge: Judge, file: Path) -> dict[str, float]:
    """The stages of a replay, block by block as they run, so that each finds the caches as they are then."""
    spent_s = dict.fromkeys(("decode", "levels", "front_end", "networks", "events"), 0.0)

    def timed(stage: str, work: Callable[[], T]) -> T:
        begun_s = time.process_time()
        done = work()
        spent_s[stage] += time.process_time() - begun_s
        return done

    def events_of(predictions: Sequence[Prediction]) -> None:
        for prediction in predictions:
            for segment in stages.aggregator.push(prediction):
                for _ in stages.detector.push(segment):
                    pass

    n_samples = 0
    with open_recording(file) as recording:
        stages, blocks = judge.stages(recording.sample_rate_hz), recording.blocks(recording.long_block)
        while n_samples < STAGES_MAX_S * recording.sample_rate_hz:
            block = timed("decode", functools.partial(next, blocks, None))
            if block is None:
                break
            n_samples += len(block.samples)
            timed("levels", functools.partial(stages.levels.push, block))
            windows = timed("front_end", functools.partial(_all, stages.front_end.push, block))
            predictions = timed("networks", functools.partial(judge.classifier.predict_all, windows))
            timed("events", functools.partial(events_of, predictions))
    return {stage: 1000.0 * s * recording.sample_rate_hz / n_samples for stage, s in spent_s.items()}


def _all(push: Callable[[AudioBlock], Iterator[Window]], block: AudioBlock) -> list[Window]:
    return list(push(block))


def _shortest_hop_s(judge: Judge, networks: Networks, replayed: Replay, front_end_ms: float) -> dict[str, float | None]:
    """For each form, from the cost of a second of frames and that of a window."""
    card, hop_s = judge.model.card, judge.window_hop_s
    numbers = card.front_end
    frame_hop_s = numbers.hop_length_samples / numbers.sample_rate_hz
    most = min(numbers.n_frames, numbers.window_length_samples // numbers.hop_length_samples)
    window_ms = (networks.classifier_ms + replayed.events_ms) * hop_s

    def shortest(step: int, second_ms: float, window_ms: float) -> float | None:
        for n_frames in range(step, most + 1, step):
            if second_ms + window_ms / (n_frames * frame_hop_s) <= 1000.0 * FREE:
                return n_frames * frame_hop_s
        return None

    hops = {"windowed": shortest(1, front_end_ms, window_ms + networks.windowed_ms * hop_s)}
    if networks.streaming_ms is not None and card.streaming is not None:
        hops["streaming"] = shortest(card.streaming.chunk_frames, front_end_ms + networks.streaming_ms, window_ms)
    return hops


def _least_ms(work: Callable[[], object], sound_s: float, rounds: int = ROUNDS) -> float:
    """Processor time of some work, in milliseconds for a second of sound: the least of some rounds."""
    times_s = []
    for _ in range(rounds):
        begun_s = time.process_time()
        work()
        times_s.append(time.process_time() - begun_s)
    return 1000.0 * min(times_s) / sound_s


def _processor() -> str:
    """Its name in /proc/cpuinfo, where boards say less than PCs."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in names.items()}
    return named.get("model name") or named.get("Model") or platform.machine()


def _memory_mib(name: str) -> float:
    """A line of /proc/self/status: `getrusage` would tell the peak of the process that started this one."""
    (line,) = re.findall(rf"(?m)^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(line) / 1024
