"""Promises of `agent.bench`: it measures what runs, and says so in figures that fit each other."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from agent import bench as bench_module
from agent import capture
from agent.app import Judge
from agent.bench import bench, street
from agent.config import Config, InferenceConfig
from agent.errors import RecordingError
from agent.figures import Report, as_text
from agent.frontend import FrontEnd
from tests.broker import DEADLINE_S, wait_until
from tests.commands import Caller, CommandFactory
from tests.test_figures import REPORT

LIVE_S = 3.0


@pytest.fixture(scope="module", autouse=True)
def _short_street() -> Iterator[None]:
    """Enough for every figure; how exact they are is the business of a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_module, "SYNTHETIC_S", 6.0)
        yield


@pytest.fixture(scope="module")
def report() -> Report:
    return bench(Config(), None, LIVE_S)


def test_every_figure_is_there(report: Report) -> None:
    """Nothing is left out and nothing took no time, on a machine that is named."""
    told = report.as_json()

    assert told["schema"] == "urbansound.bench/1"
    assert told["machine"]["processor"]
    assert told["machine"]["cores"] >= 1
    assert (told["form"], told["sound"], told["sample_rate_hz"]) == ("streaming", "made on the spot", 48_000)
    # A difference of two measurements: beside other programs it may vanish.
    assert told["replay"].pop("resample_ms") >= 0.0
    for part in ("live", "networks", "replay"):
        assert min(figure for figure in told[part].values() if not isinstance(figure, str)) > 0.0, part
    assert told["live"]["hops"] == round(10 * LIVE_S) - 20
    assert set(told["shortest_hop_s"]) == {"windowed", "streaming"}


def test_accelerators_are_compared_or_it_is_said_why_not(delegate: str) -> None:
    """Each that can be asked for, and the delegate that is configured: figures beside the CPU's, or a reason."""
    report = bench(Config(inference=InferenceConfig(accelerator=delegate)), None, LIVE_S)

    assert [trial.device.name for trial in report.accelerators] == ["gpu", "edgetpu", "npu", "delegate"]
    for trial in report.accelerators:
        assert trial.problem or trial.ms_per_step
    assert report.live.accelerator == "delegate"
    ours = report.as_json()["accelerators"][-1]
    assert (ours["device"]["library"], ours["problem"], ours["max_difference"]) == (delegate, None, 0.0)
    assert ours["ms_per_step"] > 0.0
    assert report.accelerators[-1].figures in as_text(report)


def test_the_figures_fit_each_other(report: Report) -> None:
    """Percentiles rise, ratios are those of the figures beside them, and memory has a peak."""
    live, networks, replayed = report.live, report.networks, report.replay

    assert live.work_p50_ms <= live.work_p95_ms <= live.work_p99_ms <= live.work_max_ms
    assert networks.streaming_ms is not None
    assert networks.streaming_at_once_ms is not None
    assert bench_module.BLOCK_S == capture.BLOCK_S
    assert networks.streaming_live_ms is not None
    assert networks.ratio_live == pytest.approx(networks.windowed_ms / networks.streaming_live_ms)
    assert networks.ratio == pytest.approx(networks.windowed_ms / networks.streaming_ms)
    assert replayed.times_real_time == pytest.approx(1000.0 / replayed.whole_ms)
    assert 20.0 < live.resident_mib < 1000.0
    assert 20.0 < replayed.peak_mib < 1000.0


def test_a_recording_and_another_form_can_be_measured(tmp_path: Path) -> None:
    """A file that is given is heard, here window by window at a hop of 0.2 s, without resampling."""
    soundfile.write(tmp_path / "x.wav", street(3.0, 16_000), 16_000)

    report = bench(Config(inference=InferenceConfig(form="windowed", window_hop_s=0.2)), tmp_path / "x.wav", LIVE_S)

    assert (report.form, report.sound, report.window_hop_s) == ("windowed", str(tmp_path / "x.wav"), 0.2)
    assert report.replay.resample_ms == 0.0
    assert report.networks.streaming_ms is report.networks.streaming_live_ms is None
    assert report.networks.streaming_at_once_ms is None
    assert set(report.shortest_hop_s) == {"windowed"}
    assert "streaming" not in as_text(report)


def test_a_recording_without_sound_is_refused(tmp_path: Path) -> None:
    """A header alone cannot be measured."""
    soundfile.write(tmp_path / "x.flac", street(3.0, 16_000), 16_000)
    whole = (tmp_path / "x.flac").read_bytes()
    (tmp_path / "x.flac").write_bytes(whole[:200])

    with pytest.raises(RecordingError, match=r"x\.flac: 0 samples can be read, expected at least 16000"):
        bench(Config(), tmp_path / "x.flac", LIVE_S)


@pytest.mark.parametrize(("n_samples", "rate_hz"), [(1, 96_000), (44_099, 44_100)])
def test_a_recording_with_too_little_sound_is_refused(tmp_path: Path, n_samples: int, rate_hz: int) -> None:
    """What is shorter than a window has no figures for a second of sound."""
    soundfile.write(tmp_path / "x.wav", street(1.0, rate_hz)[:n_samples], rate_hz)

    refusal = rf"x\.wav: {n_samples} samples can be read, expected at least {rate_hz}, which make a window"
    with pytest.raises(RecordingError, match=refusal):
        bench(Config(), tmp_path / "x.wav", LIVE_S)


def test_a_recording_of_unknown_length_can_be_measured(tmp_path: Path) -> None:
    """The samples that were read count, not those that a header promises: here it promises none."""
    soundfile.write(tmp_path / "x.flac", street(3.0, 16_000), 16_000)
    content = bytearray((tmp_path / "x.flac").read_bytes())
    content[21] &= 0xF0  # the number of samples has 36 bits, RFC 9639, section 8.2
    content[22:26] = bytes(4)
    (tmp_path / "x.flac").write_bytes(content)

    report = bench(Config(), tmp_path / "x.flac", LIVE_S)

    assert 0.0 < report.replay.whole_ms < 1000.0


def test_the_shortest_hop_is_one_that_the_model_takes() -> None:
    """Where no hop is short enough, none is told: not one that is longer than the frames of a window."""
    judge = Judge(Config())
    hops = [
        bench_module._shortest_hop_s(judge, REPORT.networks, REPORT.replay, 500.0 - second_ms)
        for second_ms in np.geomspace(0.1, 400.0, 100)
    ]

    told = {hop_s for form in hops for hop_s in form.values() if hop_s is not None}
    assert 0.9 < max(told) <= 0.95 + 1e-9
    for hop_s in told:
        FrontEnd(judge.model.card.front_end, capture_rate_hz=16_000, window_hop_s=hop_s)


def children_of(pid: int) -> list[Path]:
    """Where the system tells about the processes that a process has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [Path(f"/proc/{child}") for child in children]


def n_threads(process: Path) -> int:
    return len(list((process / "task").iterdir()))


@pytest.mark.parametrize(
    ("number", "code", "n_folders"),
    [(signal.SIGINT, 130, 0), (signal.SIGTERM, 143, 0), (signal.SIGKILL, -signal.SIGKILL, 1)],
)
def test_an_interrupted_bench_leaves_nothing(
    urbansound: CommandFactory, tmp_path: Path, number: signal.Signals, code: int, n_folders: int
) -> None:
    """Whoever stops it half-way finds no process of it and no temporary folder; who kills it, no process."""
    measuring = urbansound("bench", "--seconds", "600", more={"TMPDIR": str(tmp_path)})
    measures = "the process that measures, with a thread that looks after its end"
    wait_until(lambda: any(n_threads(child) > 1 for child in children_of(measuring.process.pid)), measures)
    children = children_of(measuring.process.pid)

    measuring.signal(number)

    assert measuring.process.wait(DEADLINE_S) == code
    wait_until(lambda: not any(child.exists() for child in children), "the children to be gone")
    assert len(list(tmp_path.iterdir())) == n_folders
    assert measuring.wait() == code
    assert "Traceback" not in measuring.stderr


def test_the_sound_is_the_same_each_time() -> None:
    """Figures of two days are about the same sound."""
    np.testing.assert_array_equal(street(2.0, 8_000), street(2.0, 8_000))


def test_the_command_prints_what_was_measured(call: Caller, tmp_path: Path) -> None:
    """`urbansound bench --json` is for programs."""
    soundfile.write(tmp_path / "x.wav", street(2.0, 16_000), 16_000)

    said = call("bench", "--json", "--seconds", "3", tmp_path / "x.wav")

    assert (said.code, said.err) == (0, "")
    assert json.loads(said.out)["sound"] == str(tmp_path / "x.wav")
