"""What `bench` measures, in figures: for programs as JSON, for people as text."""

from dataclasses import asdict, dataclass
from typing import Any

from agent.accelerator import Trial


@dataclass(frozen=True, slots=True)
class Machine:
    """What was measured on.

    Attributes:
        processor: its name, as far as the system tells.
        cores: that this process may use.
        system, python, litert, agent: versions.
    """

    processor: str
    cores: int
    system: str
    python: str
    litert: str
    agent: str


@dataclass(frozen=True, slots=True)
class Live:
    """The whole pipeline, fed hop by hop as by a microphone.

    Attributes:
        accelerator: where the embedding network ran, as `urbansound run` would choose.
        hops: how many.
        work_p50_ms, work_p95_ms, work_p99_ms, work_max_ms: from having a hop to having its events.
        cpu_share: of one core.
        resident_mib: memory afterwards.
    """

    accelerator: str
    hops: int
    work_p50_ms: float
    work_p95_ms: float
    work_p99_ms: float
    work_max_ms: float
    cpu_share: float
    resident_mib: float


@dataclass(frozen=True, slots=True)
class Networks:
    """The embedding network and the classifier on the CPU, for a second of sound at the configured hop.

    Attributes:
        windowed_ms: the embedding network, each window on its own.
        streaming_ms: in its streaming form, hop by hop; None where there is none, or the hop does not fit.
        streaming_live_ms: the same, as many hops at once as the microphone hands over.
        streaming_at_once_ms: the same, many windows at once, as in a replay.
        ratio, ratio_live, ratio_at_once: windowed to streaming.
        classifier_ms: the classifier, window by window.
    """

    windowed_ms: float
    streaming_ms: float | None
    streaming_live_ms: float | None
    streaming_at_once_ms: float | None
    ratio: float | None
    ratio_live: float | None
    ratio_at_once: float | None
    classifier_ms: float


@dataclass(frozen=True, slots=True)
class Replay:
    """A recording as fast as it goes, in one process.

    Attributes:
        decode_ms, levels_ms, resample_ms, front_end_ms, networks_ms, events_ms: of each stage, for a second of sound.
        whole_ms: end to end.
        times_real_time: end to end.
        peak_mib: the most memory that this process has ever had.
    """

    decode_ms: float
    levels_ms: float
    resample_ms: float
    front_end_ms: float
    networks_ms: float
    events_ms: float
    whole_ms: float
    times_real_time: float
    peak_mib: float


@dataclass(frozen=True, slots=True)
class Report:
    """All that was measured.

    Attributes:
        schema: which fields there are.
        machine: what it was measured on.
        model: name and version.
        form: in which the embedding network runs here, `streaming` or `windowed`.
        sound: the recording.
        sample_rate_hz: of the sound.
        window_hop_s: as configured.
        live, networks, replay: the figures.
        accelerators: each that can be asked for, beside the CPU.
        shortest_hop_s: with which each form leaves half a core free, on the CPU; None where no hop does.
    """

    schema: str
    machine: Machine
    model: str
    form: str
    sound: str
    sample_rate_hz: int
    window_hop_s: float
    live: Live
    networks: Networks
    replay: Replay
    accelerators: tuple[Trial, ...]
    shortest_hop_s: dict[str, float | None]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        rounded: dict[str, Any] = _rounded(asdict(self))
        return rounded


def _rounded(value: Any) -> Any:  # noqa: ANN401  any JSON
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def as_text(report: Report) -> str:
    """For people."""
    machine, live, networks, replayed = report.machine, report.live, report.networks, report.replay
    lines = [
        f"{machine.processor}, {machine.cores} cores, {machine.system}, Python {machine.python}, "
        f"LiteRT {machine.litert}",
        f"model {report.model}, {report.form}, a window each {report.window_hop_s:g} s; "
        f"sound: {report.sound}, {report.sample_rate_hz} Hz",
        "",
        f"live, on the {live.accelerator}: {live.cpu_share:.2%} of a core, {live.resident_mib:.0f} MiB resident; "
        f"work for 0.1 s of sound, {live.hops} times:",
        f"      p50 {live.work_p50_ms:.2f}   p95 {live.work_p95_ms:.2f}   p99 {live.work_p99_ms:.2f}   "
        f"max {live.work_max_ms:.2f} ms",
        "",
        f"replay: {replayed.times_real_time:.0f} times real time on one core, {replayed.peak_mib:.0f} MiB at most; "
        "processor time for 1 s of sound:",
    ]
    for name in ("decode", "resample", "front_end", "networks", "events", "whole"):
        lines.append(f"      {name.replace('_', ' '):24}{getattr(replayed, f'{name}_ms'):8.3f} ms")
    lines += ["", "networks on the CPU, processor time for 1 s of sound:"]
    lines.append(f"      {'windowed':24}{networks.windowed_ms:8.3f} ms")
    for name, ms, ratio in (
        ("streaming, hop by hop", networks.streaming_ms, networks.ratio),
        ("streaming, as live", networks.streaming_live_ms, networks.ratio_live),
        ("streaming, many at once", networks.streaming_at_once_ms, networks.ratio_at_once),
    ):
        if ms is not None:
            lines.append(f"      {name:24}{ms:8.3f} ms, {ratio:.1f} times less")
    lines += [f"      {'classifier, hop by hop':24}{networks.classifier_ms:8.3f} ms", ""]
    lines.append("accelerators beside the CPU, by the clock, a step is a window's new frames to its likelihoods:")
    for trial in report.accelerators:
        measured = "" if trial.ms_per_step is None else trial.figures
        told = "; ".join(filter(None, (measured, trial.problem)))
        lines.append(f"      {trial.device.library or trial.device.name:24}{told}")
    lines.append("")
    for form, hop_s in report.shortest_hop_s.items():
        told = "none" if hop_s is None else f"{hop_s:g} s"
        lines.append(f"shortest hop that leaves half a core free, {form}: {told}")
    return "\n".join(lines) + "\n"
