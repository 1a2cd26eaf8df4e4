"""Promises of `agent.accelerator`: what is right is found and chosen, what is broken harms nobody."""

import dataclasses
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent import accelerator
from agent.accelerator import (
    EDGE_TPU_LIBRARY,
    NPU_NODES,
    TOLERANCE,
    Choice,
    System,
    Trial,
    choose,
    golden_windows,
    try_in_a_process,
    try_named,
)
from agent.bench import street
from agent.inference import Classifier
from agent.litert import CPU, Device
from agent.model_card import ModelFolder
from agent.wavfile import write_recording
from tests.commands import CommandFactory

VULKAN_DRIVER = "usr/share/vulkan/icd.d/some_icd.json"
GPU_NODE = "dev/dri/renderD128"


@pytest.fixture
def system(tmp_path: Path) -> Callable[..., System]:
    """A system with these files, all empty, and no other."""

    def made(*files: str) -> System:
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
        return System(tmp_path, {})

    return made


# What there is


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ([], []),
        ([GPU_NODE], []),  # no driver that could use it
        ([VULKAN_DRIVER], []),  # a driver, but nothing to drive
        ([GPU_NODE, VULKAN_DRIVER], ["gpu"]),
        (["dev/apex_0"], []),
        (["dev/apex_0", f"usr/lib/aarch64-linux-gnu/{EDGE_TPU_LIBRARY}"], ["edgetpu"]),
        (["usr/lib/libvx_delegate.so"], []),
        (["dev/galcore", "usr/lib/libvx_delegate.so"], ["npu"]),
        (["dev/galcore", "usr/lib/libethosu_delegate.so"], []),  # another vendor's
        (["dev/galcore", "usr/lib/libvx_delegate.so", GPU_NODE, VULKAN_DRIVER], ["npu", "gpu"]),
    ],
)
def test_hardware_counts_where_its_driver_is_there_too(
    system: Callable[..., System], files: list[str], found: list[str]
) -> None:
    """A look at the file system finds both; with one of them there is nothing to try."""
    assert [device.name for device in system(*files).shown()] == found


def test_hardware_that_may_not_be_used_does_not_count(tmp_path: Path, system: Callable[..., System]) -> None:
    """A service sees nodes in /dev that its unit does not let it open."""
    files = (GPU_NODE, VULKAN_DRIVER, "dev/apex_0", f"usr/lib/{EDGE_TPU_LIBRARY}")
    refused = dataclasses.replace(system(*files), may_use=lambda node: node != tmp_path / GPU_NODE)

    assert [device.name for device in refused.shown()] == ["edgetpu"]


def test_an_edge_tpu_is_found_on_usb(tmp_path: Path, system: Callable[..., System]) -> None:
    """By the two numbers that Coral's stick shows, with its firmware or before; not by those of another device."""
    devices, node = tmp_path / "sys" / "bus" / "usb" / "devices", "dev/bus/usb/002/007"
    library = f"usr/lib/{EDGE_TPU_LIBRARY}"
    for name, *values in (("usb1", "1d6b", "0002", "1", "1"), ("2-1", "18d1", "9302", "2", "7")):
        (devices / name).mkdir(parents=True)
        for file, value in zip(("idVendor", "idProduct", "busnum", "devnum"), values, strict=True):
            (devices / name / file).write_text(f"{value}\n", encoding="ascii")
    (devices / "2-1:1.0").mkdir()

    assert list(system(library).shown()) == []  # without a node it cannot be used
    assert list(system(library, node).shown()) == [Device("edgetpu", str(tmp_path / library))]
    shutil.rmtree(devices / "2-1")
    assert list(system(library, node).shown()) == []


def test_where_nothing_is_there_no_process_is_started(
    model: ModelFolder, system: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` costs nothing on a board without accelerators; `cpu` never does."""

    def started(*_arguments: object, **_options: object) -> None:
        pytest.fail("a process was started")

    monkeypatch.setattr(subprocess, "run", started)

    assert choose("auto", model, forms=[True, False], system=system()) == Choice(
        "auto", CPU, "no accelerator is there", streaming=True
    )
    assert choose("cpu", model, forms=[True, False], system=system(GPU_NODE, VULKAN_DRIVER)).device == CPU


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("edgetpu", "edgetpu: no libedgetpu.so.1 in the folders of libraries"),
        ("npu", f"npu: no {' or '.join(NPU_NODES)} in the folders of libraries"),
        ("/nowhere/libvx_delegate.so", "/nowhere/libvx_delegate.so: there is no such file"),
        ("libvx_delegate.so", "libvx_delegate.so: no libvx_delegate.so in the folders of libraries"),
    ],
)
def test_what_is_asked_for_and_not_there_is_said(
    model: ModelFolder, system: Callable[..., System], asked: str, why: str
) -> None:
    """The CPU does the work, and the reason names what is missing."""
    assert choose(asked, model, forms=[False], system=system()) == Choice(
        asked, CPU, why, streaming=False, refused=True
    )


def test_a_library_may_lie_where_the_environment_says(tmp_path: Path) -> None:
    """`LD_LIBRARY_PATH` comes first, as for the loader."""
    (tmp_path / "usr" / "lib").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    for folder in ("usr/lib", "mine"):
        (tmp_path / folder / "libvx_delegate.so").touch()

    found = System(tmp_path, {"LD_LIBRARY_PATH": f":{tmp_path / 'mine'}"}).named("npu")

    assert found == Device("npu", str(tmp_path / "mine" / "libvx_delegate.so"))


# Golden windows


@pytest.mark.parametrize("streaming", [True, False])
def test_golden_windows_are_unlike_one_another(model: ModelFolder, streaming: bool) -> None:
    """The model hears several classes in them, surely and less surely: what is wrong anywhere shows."""
    classifier = Classifier(model, streaming=streaming)
    predictions = classifier.predict_all(golden_windows(model.card, streaming=streaming))

    likelihoods = np.array([prediction.likelihoods for prediction in predictions])

    assert len(set(likelihoods.argmax(axis=1))) >= 3
    assert likelihoods.max() > 0.9
    assert (likelihoods.max(axis=1) < 0.7).any()


# Trials


@pytest.mark.parametrize("streaming", [True, False])
def test_a_delegate_that_is_right_is_chosen(model: ModelFolder, delegate: str, streaming: bool) -> None:
    """Asked for by its path, it is loaded in a process, measured and taken; its answers are the CPU's."""
    trial = try_named(delegate, model, forms=[streaming])

    assert (trial.device, trial.problem, trial.max_difference) == (Device("delegate", delegate), None, 0.0)
    for measured in (trial.load_s, trial.ms_per_step, trial.cpu_ms_per_step):
        assert measured is not None
        assert measured > 0.0
    choice = choose(delegate, model, forms=[streaming])
    assert (choice.device, choice.streaming, choice.refused) == (Device("delegate", delegate), streaming, False)


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        ("none", "takes no operator of embedding_streaming.tflite, as if it were not there"),
        ("refuse", "no such device is plugged in"),
        ("crash", "the process that tried it ended with SIGABRT: "),
        ("wrong", "likelihoods differ from the CPU's by "),
        ("30", "fails while it runs: the device has gone"),
    ],
)
def test_a_delegate_that_is_broken_harms_nobody(
    model: ModelFolder, delegate: str, monkeypatch: pytest.MonkeyPatch, behaviour: str, why: str
) -> None:
    """It may crash, refuse or answer wrongly: the CPU does the work, and the reason is told."""
    monkeypatch.setenv("DELEGATE_FOR_TESTS", behaviour)

    choice = choose(delegate, model, forms=[True, False])

    assert (choice.device, choice.refused) == (CPU, True)
    assert why in choice.reason
    assert "\n" not in choice.reason


def test_a_driver_that_hangs_is_given_up(model: ModelFolder, delegate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent goes on when the time limit is over."""
    monkeypatch.setenv("DELEGATE_FOR_TESTS", "hang")

    trial = try_in_a_process(Device("delegate", delegate), model, streaming=True, cpu_streaming=True, limit_s=3.0)

    assert trial.problem == "no answer within 3 s"


def test_a_process_that_hangs_does_not_outlive_its_limit(
    model: ModelFolder, delegate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nobody looks after it any more: the agent may have been killed."""
    monkeypatch.setenv("DELEGATE_FOR_TESTS", "hang")
    commands: list[list[str]] = []

    def not_yet(command: list[str], **_options: object) -> "subprocess.CompletedProcess[str]":
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "", "")

    monkeypatch.setattr(subprocess, "run", not_yet)
    try_in_a_process(Device("delegate", delegate), model, streaming=True, cpu_streaming=True, limit_s=2.0)

    with subprocess.Popen(commands[0], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as orphan:
        assert orphan.wait(timeout=20.0) < 0


def test_a_driver_that_talks_does_not_spoil_the_answer(
    model: ModelFolder, monkeypatch: pytest.MonkeyPatch, delegate: str
) -> None:
    """Some write to standard output when they are loaded, and some from a thread of their own, at any time."""
    run = subprocess.run

    def talkative(command: list[str], **options: object) -> "subprocess.CompletedProcess[str]":
        ended = run(command, **options)  # type: ignore[call-overload]
        return subprocess.CompletedProcess(command, ended.returncode, f"hello\n{ended.stdout}alive\n", ended.stderr)

    monkeypatch.setattr(subprocess, "run", talkative)

    assert try_in_a_process(Device("delegate", delegate), model, streaming=True, cpu_streaming=True).problem is None


@pytest.mark.parametrize(
    ("streaming_ms", "windowed_ms", "taken"), [(5.0, 1.0, False), (1.0, 5.0, True), (None, 5.0, False)]
)
def test_the_form_that_is_faster_there_is_taken(
    model: ModelFolder, monkeypatch: pytest.MonkeyPatch, streaming_ms: float | None, windowed_ms: float, taken: bool
) -> None:
    """On a GPU whole windows may cost less than states that go there and back; what is wrong does not count."""

    def trial(device: Device, _model: ModelFolder, *, streaming: bool, cpu_streaming: bool) -> Trial:
        assert cpu_streaming
        ms = streaming_ms if streaming else windowed_ms
        return Trial(device, None if ms else "is wrong", 1.0, ms or 0.1, 9.0, TOLERANCE, streaming)

    monkeypatch.setattr(accelerator, "try_in_a_process", trial)

    choice = choose("gpu", model, forms=[True, False])

    assert (choice.device, choice.streaming) == (Device("gpu"), taken)
    assert choice.reason.startswith("streaming, " if taken else "windowed, ")
    assert choose("gpu", model, forms=[True]).refused == (streaming_ms is None)  # the site may say which


def test_the_forms_are_judged_beside_the_cpu_as_it_would_run(model: ModelFolder, delegate: str) -> None:
    """A delegate may hear whole windows while the CPU streams: both give the same embeddings."""
    trial = try_in_a_process(Device("delegate", delegate), model, streaming=False, cpu_streaming=True)

    assert (trial.problem, trial.max_difference, trial.streaming) == (None, 0.0, False)
    assert trial.ms_per_step is not None
    assert trial.cpu_ms_per_step is not None
    assert trial.cpu_ms_per_step < trial.ms_per_step  # this delegate is the CPU, and streaming is less work


@pytest.mark.parametrize(("behaviour", "answers"), [("none", True), ("refuse", True), ("crash", False)])
def test_a_trial_without_an_answer_can_be_told(
    model: ModelFolder, delegate: str, monkeypatch: pytest.MonkeyPatch, behaviour: str, answers: bool
) -> None:
    """A delegate that says no has answered; one that takes its process with it has not."""
    monkeypatch.setenv("DELEGATE_FOR_TESTS", behaviour)

    trial = try_in_a_process(Device("delegate", delegate), model, streaming=True, cpu_streaming=True)

    assert trial.problem is not None
    assert trial.streaming
    assert (trial.cpu_ms_per_step is not None) == answers


@pytest.mark.parametrize(
    ("problem", "cpu_ms", "choice"),
    [("no answer within 90 s", None, (CPU, True)), ("takes no operator", 0.1, (Device("gpu"), False))],
)
def test_what_gives_no_answer_is_not_tried_in_another_form(
    model: ModelFolder,
    monkeypatch: pytest.MonkeyPatch,
    problem: str,
    cpu_ms: float | None,
    choice: tuple[Device, bool],
) -> None:
    """A driver that hangs would hang twice, while nobody hears the street; one that cannot stream may hear windows."""
    tried = []

    def trial(device: Device, _model: ModelFolder, *, streaming: bool, cpu_streaming: bool) -> Trial:
        tried.append((streaming, cpu_streaming))
        if streaming:
            return Trial(device, problem, cpu_ms_per_step=cpu_ms, streaming=True)
        return Trial(device, None, 1.0, 5.0, 0.1, 0.0)

    monkeypatch.setattr(accelerator, "try_in_a_process", trial)

    found = choose("gpu", model, forms=[True, False])

    assert (found.device, found.streaming) == choice
    assert tried == [(True, True), (False, True)][: 1 if cpu_ms is None else 2]


def test_auto_finds_tries_and_explains(
    model: ModelFolder, delegate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel shows is tried; what is wrong is not taken, and said without alarm."""
    for file in ("dev/apex_0", f"usr/lib/{EDGE_TPU_LIBRARY}"):
        (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / "dev" / "apex_0").touch()
    shutil.copy(delegate, tmp_path / "usr" / "lib" / EDGE_TPU_LIBRARY)
    monkeypatch.setenv("DELEGATE_FOR_TESTS", "wrong")

    choice = choose("auto", model, forms=[True], system=System(tmp_path, {}))

    assert (choice.device, choice.refused) == (CPU, False)
    assert choice.reason.startswith("edgetpu: likelihoods differ from the CPU's by ")


@pytest.mark.parametrize(("ms", "chosen"), [(0.5, True), (2.0, False)])
def test_auto_takes_what_is_faster_than_the_cpu(
    model: ModelFolder, system: Callable[..., System], monkeypatch: pytest.MonkeyPatch, ms: float, chosen: bool
) -> None:
    """Being right is not enough; asked for by name, it is."""
    trial = Trial(Device("gpu"), None, load_s=1.0, ms_per_step=ms, cpu_ms_per_step=1.0, max_difference=TOLERANCE)
    monkeypatch.setattr(accelerator, "try_in_a_process", lambda *_arguments, **_options: trial)
    both = system(GPU_NODE, VULKAN_DRIVER)

    assert (choose("auto", model, forms=[False], system=both).device == Device("gpu")) == chosen
    assert choose("gpu", model, forms=[False], system=both).device == Device("gpu")
    assert not dataclasses.replace(trial, problem="is wrong").is_faster


# A real GPU driver, made of software


def test_a_gpu_judges_like_the_cpu(model: ModelFolder, software_gpu: None) -> None:
    """LiteRT's GPU path on a real Vulkan driver, in both forms: the same likelihoods but for their last digits."""
    for streaming in (True, False):
        begun_s = time.monotonic()
        trial = try_named("gpu", model, forms=[streaming])
        print(f"streaming={streaming}: {trial.problem or trial.figures}, {time.monotonic() - begun_s:.1f} s in all")

        assert trial.problem is None
        assert trial.max_difference is not None
        assert trial.max_difference <= TOLERANCE


def test_a_replay_on_a_gpu_finds_the_events_of_the_cpu(
    software_gpu: None, urbansound: CommandFactory, tmp_path: Path
) -> None:
    """The whole program, twice: the same events, and nothing else on standard output."""
    write_recording(tmp_path / "street.flac", street(25.0, 16_000), 16_000)
    rows: dict[str, list[dict[str, Any]]] = {}
    for name in ("cpu", "gpu"):
        variables = {"URBANSOUND_INFERENCE__ACCELERATOR": name}
        command = urbansound("replay", tmp_path / "street.flac", more=variables)
        assert command.wait() == 0
        assert "WARNING" not in command.stderr  # neither refused nor failed
        rows[name] = [json.loads(line) for line in command.lines]

    assert len(rows["cpu"]) >= 2
    for on_cpu, on_gpu in zip(rows["cpu"], rows["gpu"], strict=True):
        assert (on_gpu["label"], on_gpu["end_reason"]) == (on_cpu["label"], on_cpu["end_reason"])
        for key in ("onset_s", "offset_s", "likelihood_peak", "likelihood_mean"):
            assert on_gpu[key] == pytest.approx(on_cpu[key], abs=0.02), key
