"""Promises of `agent.litert`: the same sums wherever a network runs, and one error where an accelerator does not."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from agent.errors import ModelError
from agent.inference import Classifier
from agent.litert import (
    CPU,
    LITERT_GREETING,
    STDERR,
    AcceleratorError,
    Device,
    Runner,
    TensorArray,
    _cause,
    _held_back,
    load,
    operators_taken,
)
from agent.model_card import ModelFolder
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def streaming_file(model: ModelFolder) -> Path:
    assert model.streaming_file is not None
    return model.streaming_file


def steps_of(runner: Runner, n: int) -> list[TensorArray]:
    """What a network answers to so many chunks of noise, one after the other."""
    rng = np.random.default_rng(0)
    states, answers = runner.silence(), []
    for _ in range(n):
        chunk = rng.integers(-128, 128, runner.inputs[0]["shape"]).astype(np.int8)
        answer, states = runner.run(chunk, states)
        answers.append(answer)
    return answers


def test_a_step_knows_the_steps_before_it_and_silence_forgets_them(streaming_file: Path) -> None:
    """States go from step to step; after `silence` the same chunks give the same answers again."""
    runner = load(streaming_file)

    once, again = steps_of(runner, 12), steps_of(runner, 12)

    np.testing.assert_array_equal(once, again)
    assert len({answer.tobytes() for answer in once}) == 12


def test_a_delegate_gives_what_the_cpu_gives(streaming_file: Path, delegate: str) -> None:
    """What a delegate computes goes into the same network, with the same answers to the last bit."""
    on_delegate = load(streaming_file, Device("delegate", delegate))

    np.testing.assert_array_equal(steps_of(on_delegate, 12), steps_of(load(streaming_file), 12))
    assert operators_taken(streaming_file, Device("delegate", delegate)) == 3  # the pools


def test_a_delegate_that_takes_nothing_is_seen(
    streaming_file: Path, delegate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would run on the CPU and look right."""
    monkeypatch.setenv("DELEGATE_FOR_TESTS", "none")

    assert operators_taken(streaming_file, Device("delegate", delegate)) == 0


def test_a_device_that_goes_is_one_kind_of_error(
    streaming_file: Path, delegate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some steps each step fails, and says what LiteRT says."""
    monkeypatch.setenv("DELEGATE_FOR_TESTS", "30")
    runner = load(streaming_file, Device("delegate", delegate))

    with pytest.raises(AcceleratorError, match="the device has gone"):
        steps_of(runner, 30)


@pytest.mark.parametrize(
    ("library", "why"),
    [
        ("libc.so.6", "undefined symbol: tflite_plugin_create_delegate"),
        ("/nowhere/libdelegate.so", "/nowhere/libdelegate.so: cannot open shared object file"),
    ],
)
def test_what_is_no_delegate_is_one_kind_of_error(streaming_file: Path, library: str, why: str) -> None:
    """A library without the entry points, and one that is not there; the CPU works afterwards."""
    with pytest.raises(AcceleratorError, match=why):
        load(streaming_file, Device("delegate", library))

    assert steps_of(load(streaming_file), 1)


def test_a_gpu_without_a_driver_says_why(streaming_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteRT's exception holds no cause, standard error does; the CPU works afterwards."""
    monkeypatch.setenv("VK_DRIVER_FILES", "/nowhere.json")

    with pytest.raises(AcceleratorError, match=r"Couldn't load Vulkan|No adapters found"):
        load(streaming_file, Device("gpu"))

    assert steps_of(load(streaming_file), 1)


@pytest.mark.parametrize(
    "why",
    [
        "Couldn't load Vulkan: libvulkan.so.1: cannot open shared object file",
        "Vulkan shaderUniform*ArrayDynamicIndexing required",
        "loader_icd_scan: Failed loading library associated with ICD JSON /usr/lib/libvulkan_lvp.so",
        "vkCreateInstance: Found no drivers!",
    ],
)
def test_of_what_litert_says_the_cause_is_told(why: str) -> None:
    """As it was written without a loader, with a driver that is too old, or that lacks its own or another library."""
    before = b"INFO: [gpu_registry.cc:130] Attempting to load GPU accelerator\n"
    after = b"    at somewhere (third_party/dawn)\n\nERROR: [delegate_webgpu.cc:359] No adapters found\nERROR: more\n"

    assert _cause([before, f"Warning: {why}.\n".encode(), after]) == f"{why}; No adapters found"


def test_a_file_that_is_no_network_is_the_models_fault(tmp_path: Path) -> None:
    """Whatever device it is for."""
    (tmp_path / "broken.tflite").write_bytes(b"not a network")

    for device in (CPU, Device("gpu")):
        with pytest.raises(ModelError, match=r"broken\.tflite: LiteRT cannot load it"):
            load(tmp_path / "broken.tflite", device)


def test_what_litert_says_besides_is_passed_on(
    model: ModelFolder, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Only the greeting is held back; anything else that LiteRT writes to standard error arrives there."""

    def talkative(**arguments: object) -> Interpreter:
        os.write(2, b"WARNING: one\n" + LITERT_GREETING + b"ERROR: two\n")
        return Interpreter(**arguments)

    monkeypatch.setattr("agent.litert.Interpreter", talkative)

    Classifier(model)

    assert capfd.readouterr().err == "WARNING: one\nERROR: two\n" * 2


@pytest.mark.parametrize(("closed", "said"), [("2>&-", "loaded\n"), (">&-", ""), (">&- 2>&-", "")])
def test_a_closed_standard_error_or_output_is_not_the_models_fault(
    streaming_file: Path, closed: str, said: str
) -> None:
    """Who starts the agent with `2>&-` or `>&-` has closed the descriptor: the network loads, the other one stays."""
    program = (
        "import sys; from pathlib import Path; from agent.litert import load; load(Path(sys.argv[1])); print('loaded')"
    )

    loaded = subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-c", program, streaming_file],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (loaded.returncode, loaded.stdout, loaded.stderr) == (0, said, "")


def test_what_litert_says_at_length_neither_hangs_nor_stays_open() -> None:
    """A driver that says more than a pipe holds loses the rest of it, and is not waited for; no file is left open."""
    told: list[bytes] = []
    before = len(list(Path("/proc/self/fd").iterdir()))

    with _held_back(told.append):
        os.write(STDERR, b"x" * 1_000_000)

    assert set(told[0]) == {ord("x")}
    assert len(list(Path("/proc/self/fd").iterdir())) == before
