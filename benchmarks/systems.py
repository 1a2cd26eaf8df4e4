"""What is compared, each from the same samples at 48 kHz, with a window each 0.1 s and one thread.

In: sound. Out: processor time for a second of it, the least of some rounds, and memory. Each is to be called in a
process of its own. What a system needs besides the agent is imported when it is measured.
"""

import contextlib
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soxr
from ai_edge_litert.interpreter import Interpreter

from agent import pipeline
from agent.app import Judge
from agent.config import Config, InferenceConfig
from agent.values import AudioBlock, FloatArray

RATE_HZ = 48_000
HOP_S = 0.1
ROUNDS = 3
YAMNET_RATE_HZ = 16_000


@dataclass(frozen=True, slots=True)
class Measured:
    """What a system needs.

    Attributes:
        system: its name.
        ms: processor time for a second of sound, with a window each 0.1 s.
        peak_mib: memory of its process at most.
    """

    system: str
    ms: float
    peak_mib: float


def make_large(folder: Path) -> None:
    """Write a large model into a folder, for the agent; TensorFlow stays in this process."""
    from benchmarks.large import write_large_model

    with contextlib.redirect_stdout(sys.stderr):  # TensorFlow tells what it converts
        write_large_model(folder)


def measure_agent(form: Literal["streaming", "windowed"], sound: FloatArray, *, at_once: bool) -> Measured:
    """The agent's front end and both its networks, from samples to likelihoods."""
    judge = Judge(Config(inference=InferenceConfig(form=form)))

    def work() -> None:
        front_end = judge.stages(RATE_HZ).front_end
        n = len(sound) if at_once else RATE_HZ // 10
        blocks = (AudioBlock(sound[first : first + n], first) for first in range(0, len(sound), n))
        for _ in pipeline.predictions(blocks, front_end, judge.classifier):
            pass

    how = "as fast as it goes" if at_once else "hop by hop"
    return _measured(f"agent, {form}, {how}", work, len(sound) / RATE_HZ)


def measure_yamnet(file: Path, sound: FloatArray) -> Measured:
    """YAMNet in TFLite: the waveform of each window to 521 scores; its front end is inside."""
    interpreter = Interpreter(model_path=str(file), num_threads=1)
    interpreter.allocate_tensors()
    ((into, window_length),) = ((tensor["index"], tensor["shape"][0]) for tensor in interpreter.get_input_details())

    def work() -> None:
        samples = soxr.resample(sound, RATE_HZ, YAMNET_RATE_HZ)
        for first in range(0, len(samples) - window_length + 1, round(HOP_S * YAMNET_RATE_HZ)):
            interpreter.set_tensor(into, samples[first : first + window_length])
            interpreter.invoke()

    return _measured("YAMNet, TFLite", work, len(sound) / RATE_HZ)


def measure_openl3(sound: FloatArray) -> Measured:
    """OpenL3 in Keras, mel256 and 512 values, with random weights."""
    from benchmarks.openl3 import BATCH_SIZE, HOP_SAMPLES, OpenL3

    system = OpenL3()
    some = sound[: (2 * BATCH_SIZE + 4) * HOP_SAMPLES]  # two batches
    system.embed(some)  # builds the graph
    return _measured("OpenL3, Keras", lambda: system.embed(some), len(some) / RATE_HZ)


def _measured(system: str, work: Callable[[], object], sound_s: float) -> Measured:
    times_s = []
    for _ in range(ROUNDS):
        begun_s = time.process_time()
        work()
        times_s.append(time.process_time() - begun_s)
    (peak,) = re.findall(r"(?m)^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="utf-8"))
    return Measured(system, float(1000.0 * np.min(times_s) / sound_s), int(peak) / 1024)
