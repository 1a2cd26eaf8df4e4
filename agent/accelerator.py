"""Which accelerator runs the embedding network: what is asked for, what is there, what is right and beats the CPU.

In: `inference.accelerator` and a model folder. Out: a `Choice`. Called at start, on the main thread, by `app` and
`bench`.

A driver that is broken may crash or hang whoever loads it. So each accelerator is first tried by a process of its own,
`python -m agent.accelerator`, within a time limit: it loads the network, warms up, judges golden windows on the CPU and
on the accelerator, and says how far they differ and how long a step takes. The agent loads what has passed, and nothing
else. Where there is no driver, looking for one costs a few looks at the file system.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from agent.inference import Classifier
from agent.litert import CPU, AcceleratorError, Device, operators_taken
from agent.model_card import EventNumbers, ModelCard, ModelFolder, event_rules, load_model_folder
from agent.values import FloatArray, Prediction, Window

TRIAL_LIMIT_S = 90.0  # a GPU that compiles for the first time was seen to take 20 s
TOLERANCE = 0.02  # of a likelihood summed over a span, between the CPU and an accelerator
N_GOLDEN = 40

EMBEDDING_COSINE = 0.98  # at least, to the CPU's: likelihoods near 0 and 1 hide much

# Where the kernel shows such hardware, and what its users find it by. Patterns below the root of the file system.
GPU_NODES = ("dev/dri/renderD*", "dev/nvidia[0-9]*", "dev/mali[0-9]*", "dev/kgsl-3d[0-9]*")
VULKAN_DRIVERS = ("usr/share/vulkan/icd.d/*.json", "usr/local/share/vulkan/icd.d/*.json", "etc/vulkan/icd.d/*.json")
EDGE_TPU_NODES = ("dev/apex_*",)
EDGE_TPU_USB = ("1a6e:089a", "18d1:9302")  # before and after it has its firmware
EDGE_TPU_LIBRARY = "libedgetpu.so.1"
NPU_NODES = {  # by the TFLite delegate of its vendor
    "libvx_delegate.so": ("dev/galcore",),  # VeriSilicon: NXP i.MX 8M Plus
    "libethosu_delegate.so": ("dev/ethosu[0-9]*",),  # Arm Ethos-U: NXP i.MX 93
    "libneutron_delegate.so": ("dev/neutron[0-9]*",),  # NXP i.MX 95
    "libQnnTFLiteDelegate.so": ("dev/fastrpc-cdsp*", "dev/adsprpc-smd*"),  # Qualcomm
    "libteflon.so": ("dev/accel/accel[0-9]*", "dev/dri/renderD*"),  # Mesa: Rockchip, VeriSilicon
}
LIBRARY_FOLDERS = ("usr/lib", "usr/lib/*-linux-gnu", "usr/lib64", "usr/local/lib", "opt/*/lib")


@dataclass(frozen=True, slots=True)
class Trial:
    """How an accelerator did beside the CPU.

    Attributes:
        device: what was tried.
        problem: why it cannot be used; None where its answers are right.
        load_s: until its first step was done.
        ms_per_step: by the clock, from a window's new frames to its likelihoods; the median.
        cpu_ms_per_step: the same on the CPU; None where the trial gave no answer: there was none, it crashed or hung.
        max_difference: the largest difference of a likelihood from the CPU's, summed over spans as for events.
        streaming: in which form the embedding network was tried, if it was.
    """

    device: Device
    problem: str | None = None
    load_s: float | None = None
    ms_per_step: float | None = None
    cpu_ms_per_step: float | None = None
    max_difference: float | None = None
    streaming: bool = False

    @property
    def is_faster(self) -> bool:
        """Whether it is right, and faster than the CPU."""
        return self.problem is None and (self.ms_per_step or 0.0) < (self.cpu_ms_per_step or 0.0)

    @property
    def figures(self) -> str:
        """What was measured, for a person."""
        return (
            f"{'streaming' if self.streaming else 'windowed'}, {self.ms_per_step:.3g} ms a step, "
            f"the CPU {self.cpu_ms_per_step:.3g} ms, "
            f"likelihoods within {self.max_difference:.2g}"
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """Where the embedding network runs, and why.

    Attributes:
        asked: as configured.
        device: what was chosen.
        reason: for a person, on one line.
        streaming: in which form it runs there.
        refused: whether something was asked for by name, and is not used.
    """

    asked: str
    device: Device
    reason: str
    streaming: bool
    refused: bool = False

    @property
    def name(self) -> str:
        """For messages: `cpu`, `gpu`, `edgetpu`, `npu` or `delegate`."""
        return self.device.name

    def given_up(self, why: str, *, streaming: bool) -> "Choice":
        """The same with the CPU, its form, and why."""
        return Choice(self.asked, CPU, f"{self.name}: {why}", streaming, refused=True)


@dataclass(frozen=True, slots=True)
class System:
    """What there is, as far as the file system tells; nothing is opened or loaded.

    Attributes:
        root: where the system's folders are.
        environment: where libraries and Vulkan drivers may be, too.
        may_use: whether a device node can be read and written; a service often may not.
    """

    root: Path = Path("/")
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    may_use: Callable[[Path], bool] = lambda node: os.access(node, os.R_OK | os.W_OK)

    def shown(self) -> Iterator[Device]:
        """Accelerators whose hardware can be used, and whose driver is there."""
        if self._any_node(EDGE_TPU_NODES) or self._edge_tpu_on_usb():
            library = self.library(EDGE_TPU_LIBRARY)
            if library is not None:
                yield Device("edgetpu", library)
        for name, nodes in NPU_NODES.items():
            if self._any_node(nodes) and (library := self.library(name)) is not None:
                yield Device("npu", library)
        if self._any_node(GPU_NODES) and (self._has_vulkan_driver() or self.environment.get("VK_DRIVER_FILES")):
            yield Device("gpu")

    def named(self, asked: str) -> Device | None:
        """What is asked for by name; None where there is no such library."""
        if asked == "gpu":
            return Device("gpu")
        kind = asked if asked in ("edgetpu", "npu") else "delegate"
        names = {"edgetpu": [EDGE_TPU_LIBRARY], "npu": list(NPU_NODES)}.get(asked, [asked])
        libraries = [library for name in names if (library := self.library(name)) is not None]
        return Device(kind, libraries[0]) if libraries else None

    def library(self, name: str) -> str | None:
        """The file of a shared library, named or with its path; None where there is none."""
        if "/" in name:
            return name if Path(name).is_file() else None
        first = [Path(folder) for folder in self.environment.get("LD_LIBRARY_PATH", "").split(":") if folder]
        folders = itertools.chain(first, *(sorted(self.root.glob(pattern)) for pattern in LIBRARY_FOLDERS))
        return next((str(folder / name) for folder in folders if (folder / name).is_file()), None)

    def _any_node(self, patterns: Sequence[str]) -> bool:
        return any(self.may_use(node) for pattern in patterns for node in self.root.glob(pattern))

    def _has_vulkan_driver(self) -> bool:
        return any(True for pattern in VULKAN_DRIVERS for _ in self.root.glob(pattern))

    def _edge_tpu_on_usb(self) -> bool:
        for device in self.root.glob("sys/bus/usb/devices/*"):
            try:
                vendor, product, bus, number = (
                    (device / name).read_text(encoding="ascii").strip()
                    for name in ("idVendor", "idProduct", "busnum", "devnum")
                )
            except (OSError, UnicodeDecodeError):  # an interface, not a device
                continue
            node = self.root / "dev" / "bus" / "usb" / bus.zfill(3) / number.zfill(3)
            if f"{vendor}:{product}" in EDGE_TPU_USB and self.may_use(node):
                return True
        return False


THIS_SYSTEM = System()


def choose(asked: str, model: ModelFolder, *, forms: Sequence[bool], system: System = THIS_SYSTEM) -> Choice:
    """Find an accelerator, try it, and choose; whatever is wrong with it, the CPU can do the work.

    Args:
        asked: `auto`, `cpu`, `gpu`, `edgetpu`, `npu`, or the path of a TFLite delegate. `auto` tries what the system
            shows, and takes what is right and faster than the CPU; what is asked for by name is taken if it is right.
        model: its folder.
        forms: in which the embedding network may run, streaming or not: first as on the CPU.
        system: what there is.
    """
    if asked == "cpu":
        return Choice(asked, CPU, "as configured", forms[0])
    if asked == "auto":
        told = []
        for device in system.shown():
            trial = try_forms(device, model, forms)
            if trial.is_faster:
                return Choice(asked, device, trial.figures, trial.streaming)
            told.append(f"{device.name}: {trial.problem or trial.figures}")
        return Choice(asked, CPU, "; ".join(told) or "no accelerator is there", forms[0])
    trial = try_named(asked, model, forms=forms, system=system)
    if trial.problem is not None:
        return Choice(asked, CPU, f"{asked}: {trial.problem}", forms[0], refused=True)
    return Choice(asked, trial.device, trial.figures, trial.streaming)


def try_named(asked: str, model: ModelFolder, *, forms: Sequence[bool], system: System = THIS_SYSTEM) -> Trial:
    """Try what is asked for by name, as `choose` does."""
    device = system.named(asked)
    if device is not None:
        return try_forms(device, model, forms)
    if "/" in asked:
        return Trial(Device("delegate", asked), "there is no such file")
    names = {"edgetpu": [EDGE_TPU_LIBRARY], "npu": list(NPU_NODES)}.get(asked, [asked])
    return Trial(Device(asked), f"no {' or '.join(names)} in the folders of libraries")


def try_forms(device: Device, model: ModelFolder, forms: Sequence[bool]) -> Trial:
    """Try an accelerator in each form that may run; the fastest of those in which it is right, else the first.

    What crashes or hangs in one form is not tried in another; what cannot run one may run another.
    """
    trials: list[Trial] = []
    for streaming in forms:
        trials.append(try_in_a_process(device, model, streaming=streaming, cpu_streaming=forms[0]))
        if trials[-1].cpu_ms_per_step is None:
            break
    right = [trial for trial in trials if trial.problem is None]
    return min(right, key=lambda trial: trial.ms_per_step or 0.0, default=trials[0])


def try_in_a_process(
    device: Device, model: ModelFolder, *, streaming: bool, cpu_streaming: bool, limit_s: float = TRIAL_LIMIT_S
) -> Trial:
    """Try an accelerator where it can crash and hang without harm.

    Args:
        device: what to try.
        model: its folder.
        streaming: which form of the embedding network.
        cpu_streaming: which form on the CPU beside it.
        limit_s: how long it may take.
    """
    forms = {"streaming": streaming, "cpu_streaming": cpu_streaming}
    request = json.dumps({"device": asdict(device), "model": str(model.path)} | forms)
    # -P: not from the folder that somebody happens to stand in.
    command = [sys.executable, "-P", "-m", "agent.accelerator", f"{limit_s:g}", request]
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return Trial(device, f"no answer within {limit_s:g} s", streaming=streaming)
    except OSError as error:
        return Trial(device, f"no process to try it in ({error.strerror})", streaming=streaming)
    answer = ended.stdout.rpartition(ANSWER)[2]
    if ended.returncode == 0 and answer:
        fields, _ = json.JSONDecoder().raw_decode(answer)  # a thread of the driver may have the last word
        return Trial(device, **fields)
    how = f"exit code {ended.returncode}"
    if ended.returncode < 0:
        how = signal.Signals(-ended.returncode).name
    last = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1].strip()
    return Trial(device, f"the process that tried it ended with {how}: {last}", streaming=streaming)


# --- in that process -----------------------------------------------------------------------------------------------

ANSWER = "\nurbansound.trial/1 "  # a driver may write to standard output as well


def try_here(device: Device, model: ModelFolder, *, streaming: bool, cpu_streaming: bool) -> Trial:
    """Judge golden windows on the CPU and on an accelerator; a broken driver ends this process."""
    windows = golden_windows(model.card, streaming=streaming or cpu_streaming)
    cpu = Classifier(model, streaming=cpu_streaming)
    expected, cpu_ms = _judged(cpu, windows)
    begun_s = time.perf_counter()
    try:
        file = model.file_for(device.name, streaming=streaming)
        if device.library is not None and file is not None and operators_taken(file, device) == 0:
            no_part = f"takes no operator of {file.name}, as if it were not there"
            return Trial(device, no_part, cpu_ms_per_step=cpu_ms, streaming=streaming)
        accelerated = Classifier(model, streaming=streaming, device=device)
    except AcceleratorError as error:
        return Trial(device, str(error), cpu_ms_per_step=cpu_ms, streaming=streaming)
    load_s = time.perf_counter() - begun_s
    found, ms = _judged(accelerated, windows)
    difference, problem = _compared(expected, found, model.card)
    if accelerated.failure is not None:
        problem = f"fails while it runs: {accelerated.failure}"
    return Trial(device, problem, load_s, ms, cpu_ms, difference, streaming)


def _compared(expected: Sequence[Prediction], found: Sequence[Prediction], card: ModelCard) -> tuple[float, str | None]:
    """The largest difference of a summed likelihood, and what is wrong with what was found."""
    ours, theirs = (_summed(predictions, card) for predictions in (expected, found))  # (n, n_classes)
    difference = float(np.abs(ours - theirs).max())
    if not difference <= TOLERANCE:  # NaN is no answer, either
        return difference, f"likelihoods differ from the CPU's by {difference:.2g}, expected at most {TOLERANCE:g}"
    rows, named = np.arange(len(theirs)), theirs.argmax(axis=1)
    behind = float((ours.max(axis=1) - ours[rows, named]).max())
    if behind > TOLERANCE:
        return difference, f"names another label than the CPU, which the CPU finds {behind:.2g} less likely"
    cosine = min(_cosine(one.embedding, other.embedding) for one, other in zip(expected, found, strict=True))
    if not cosine >= EMBEDDING_COSINE:
        return (
            difference,
            f"embeddings have a cosine of {cosine:.2g} to the CPU's, expected at least {EMBEDDING_COSINE:g}",
        )
    return difference, None


def _summed(predictions: Sequence[Prediction], card: ModelCard) -> FloatArray:
    """Likelihoods as events are made of them: means over the spans. In single windows, one step of int8 is seen.

    Returns:
        float32 (n, n_classes).
    """
    hop_s = (predictions[1].first_sample - predictions[0].first_sample) / card.front_end.sample_rate_hz
    rules = event_rules(card.events, card.labels, EventNumbers(), {})
    likelihoods = np.array([prediction.likelihoods for prediction in predictions])
    means = []
    for column, label in enumerate(card.labels):
        n = min(max(1, round(rules[label].span_s / hop_s)), N_GOLDEN // 4)
        means.append(np.lib.stride_tricks.sliding_window_view(likelihoods[:, column], n).mean(axis=-1))
    n_all = min(map(len, means))
    summed: FloatArray = np.stack([of_class[-n_all:] for of_class in means], axis=1)
    return summed


def golden_windows(card: ModelCard, *, streaming: bool) -> list[Window]:
    """Windows of one stream that is now quiet, now loud, of tones, knocks and noise; the same for every accelerator.

    They are made, not recorded: what is compared is two ways to do the same sums.
    """
    numbers, rng = card.front_end, np.random.default_rng(0)
    hop = card.streaming.chunk_frames if streaming and card.streaming is not None else max(1, numbers.n_frames // 8)
    n_frames = numbers.n_frames + (N_GOLDEN - 1) * hop
    times, bands = np.arange(n_frames)[:, None], np.arange(numbers.n_mels)[None, :] / numbers.n_mels
    level = 0.5 + 0.3 * np.sin(2 * np.pi * times / 170.0) - 0.3 * bands  # of the range of levels
    noise = rng.normal(0.0, 0.06, (n_frames, numbers.n_mels))
    wail = 0.5 * np.exp(-(((bands - 0.4 - 0.15 * np.sin(2 * np.pi * times / 50.0)) / 0.03) ** 2)) * (times % 200 > 100)
    knocks = 0.4 * (times % 30 < 3) * (times % 300 > 180)
    share = np.clip(level + noise + wail + knocks, 0.0, 1.0)
    log_mel = (numbers.level_min_db + share * (numbers.level_max_db - numbers.level_min_db)).astype(np.float32)
    return [
        Window(
            log_mel[first : first + numbers.n_frames],
            first_sample=first * numbers.hop_length_samples,
            n_samples=numbers.window_length_samples,
            n_new_frames=hop if streaming and first else None,
        )
        for first in range(0, N_GOLDEN * hop, hop)
    ]


def _judged(classifier: Classifier, windows: Sequence[Window]) -> tuple[list[Prediction], float]:
    """What it says of each window, and how many milliseconds a step takes; the first is a warm-up."""
    predictions, times_s = [], []
    for window in windows:
        begun_s = time.perf_counter()
        predictions.append(classifier.predict(window))
        times_s.append(time.perf_counter() - begun_s)
    return predictions, 1000.0 * float(np.median(times_s[1:]))


def _cosine(one: FloatArray, other: FloatArray) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    if lengths == 0.0:
        return float(np.array_equal(one, other))
    return float(one @ other) / lengths


def main() -> int:
    """Try what is asked for, and print the trial; `try_in_a_process` calls it."""
    limit_s, request = float(sys.argv[1]), json.loads(sys.argv[2])
    signal.setitimer(
        signal.ITIMER_REAL, limit_s
    )  # ends this process though its parent be gone, and inside a driver, too
    trial = try_here(
        Device(**request["device"]),
        load_model_folder(Path(request["model"])),
        streaming=request["streaming"],
        cpu_streaming=request["cpu_streaming"],
    )
    fields = asdict(trial)
    del fields["device"]
    sys.stdout.write(ANSWER + json.dumps(fields))
    sys.stdout.flush()
    os._exit(0)  # a driver that crashes while it is unloaded has answered before


if __name__ == "__main__":
    sys.exit(main())
