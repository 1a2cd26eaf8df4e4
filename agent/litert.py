"""One `.tflite` file on one device: tensors in, tensors out. The owner of LiteRT.

In: a file, and where it shall run: on the CPU, on the GPU, or on what a TFLite delegate speaks to. Out: something that
runs, the same to its caller wherever it does. Called by `inference`, on the pipeline thread.

A network takes and gives one tensor, and then its states, if it has any: what comes out of one step goes into the next.
On the GPU they stay there: a step's output buffers are the next step's inputs. An accelerator that does not load, or
fails while it runs, raises `AcceleratorError`; then the CPU can do the same work.
"""

import atexit
import ctypes
import fcntl
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType, load_delegate
from numpy.typing import NDArray

from agent.errors import ModelError

TensorArray = NDArray[np.int8 | np.float32]  # what a network takes and gives, as its card says

STDOUT, STDERR = 1, 2
# LiteRT writes this to standard error whenever its CPU kernels are the fast ones; it has no switch for it (2.3.0).
LITERT_GREETING = b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n"

log = logging.getLogger(__name__)
_loading = threading.Lock()


class AcceleratorError(Exception):
    """An accelerator does not load, or fails while it runs; the CPU can do its work."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where a network runs.

    Attributes:
        name: `cpu`, `gpu`, or what the delegate is for: `edgetpu`, `npu`, `delegate`.
        library: the shared library of a TFLite delegate; None for `cpu` and `gpu`.
    """

    name: str
    library: str | None = None


CPU = Device("cpu")


class Runner(Protocol):
    """A network, ready to run.

    Attributes:
        inputs, outputs: its tensors in LiteRT's words: `shape`, `dtype`, `quantization`.
    """

    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]

    def silence(self) -> Sequence[Any]:
        """The states before all sound: zero points."""

    def run(self, first: TensorArray, states: Sequence[Any] = ()) -> tuple[TensorArray, Sequence[Any]]:
        """One step: the first output, and the states after it. States are only for the network that gave them.

        Raises:
            AcceleratorError: the device has failed.
        """


def load(file: Path, device: Device = CPU, num_threads: int = 1, input_shape: tuple[int, ...] | None = None) -> Runner:
    """Load a file, and make it ready: on the GPU, what is to be compiled is compiled now.

    Args:
        file: the network.
        device: where it shall run.
        num_threads: of the CPU.
        input_shape: of the first input, where it is not to be what the file says; only for the CPU.

    Raises:
        ModelError: LiteRT cannot load it, whatever runs it.
        AcceleratorError: this device cannot run it.
    """
    if device.name == "gpu":
        return _OnGpu(file)
    return _OnInterpreter(_interpreter(file, device, num_threads, input_shape), device)


class _OnInterpreter:
    """On the CPU; a delegate may take some of its operators, or all of them, to a device of its own."""

    def __init__(self, interpreter: Interpreter, device: Device) -> None:
        self._interpreter, self._device = interpreter, device
        self.inputs: list[dict[str, Any]] = interpreter.get_input_details()
        self.outputs: list[dict[str, Any]] = interpreter.get_output_details()
        self._shape = tuple(self.inputs[0]["shape"])
        self._into, *self._before = (tensor["index"] for tensor in self.inputs)
        self._out, *self._after = (tensor["index"] for tensor in self.outputs)

    def silence(self) -> Sequence[TensorArray]:
        return _zero_points(self.inputs[1:])

    def run(self, first: TensorArray, states: Sequence[TensorArray] = ()) -> tuple[TensorArray, Sequence[TensorArray]]:
        interpreter = self._interpreter
        interpreter.set_tensor(self._into, first.reshape(self._shape))
        for tensor, state in zip(self._before, states, strict=True):
            interpreter.set_tensor(tensor, state)
        try:
            interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            if self._device == CPU:
                raise
            raise AcceleratorError(_one_line(error)) from error
        return interpreter.get_tensor(self._out), [interpreter.get_tensor(tensor) for tensor in self._after]


class _OnGpu:
    """On the GPU, by LiteRT's CompiledModel. Two sets of buffers for the states: one is read, the other is written."""

    def __init__(self, file: Path) -> None:
        details = _interpreter(file, CPU, num_threads=1)  # knows the tensors; and the file is known to be good
        self.inputs: list[dict[str, Any]] = details.get_input_details()
        self.outputs: list[dict[str, Any]] = details.get_output_details()
        self._shape = tuple(self.outputs[0]["shape"])
        told: list[bytes] = []
        try:
            with _held_back(told.append):
                self._load(file)
        except (RuntimeError, ValueError, ImportError, AcceleratorError) as error:
            raise AcceleratorError(_cause(told) or _one_line(error)) from error
        for line in filter(None, b"".join(told).decode(errors="replace").splitlines()):
            log.debug("litert.said line=%s", line)
        atexit.register(self._unload)

    def _unload(self) -> None:
        """At exit, not when the CPU takes over: unloading a driver that has failed may crash."""
        with _held_back(lambda _told: None):  # LiteRT tells what it destroys
            del self._model, self._into, self._out, self._here, self._there

    def _load(self, file: Path) -> None:
        from ai_edge_litert.compiled_model import CompiledModel, HardwareAccelerator, Options  # 6 MiB, needed only here

        # Not GPU|CPU: without a driver that raises as well, and with one it hides what runs where (2.3.0).
        options = Options(hardware_accelerators=HardwareAccelerator.GPU)
        options.gpu_options.enforce_f32 = True  # float16 doubles the distance from the CPU
        self._model = CompiledModel.from_file(str(file), options=options)
        self._into, *before = self._model.create_input_buffers(0)
        self._out, *after = self._model.create_output_buffers(0)
        self._here: list[Any] = before
        self._there: list[Any] = after
        self.run(np.zeros(self.inputs[0]["shape"], self.inputs[0]["dtype"]), self.silence())  # what is slow once

    def silence(self) -> Sequence[Any]:
        for buffer, zeros in zip(self._here, _zero_points(self.inputs[1:]), strict=True):
            buffer.write(zeros.reshape(-1))
        return self._here

    def run(self, first: TensorArray, states: Sequence[Any] = ()) -> tuple[TensorArray, Sequence[Any]]:
        before, after = (self._there, self._here) if states is self._there else (self._here, self._there)
        try:
            self._into.write(np.ascontiguousarray(first).reshape(-1))
            self._model.run_by_index(0, [self._into, *before], [self._out, *after])
            answer: TensorArray = self._out.read(int(np.prod(self._shape)), self.outputs[0]["dtype"])
        except (RuntimeError, ValueError) as error:
            raise AcceleratorError(_one_line(error)) from error
        return answer.reshape(self._shape), after


def operators_taken(file: Path, delegate: Device) -> int:
    """How many parts of a network a delegate takes over; 0 where all of it would run on the CPU, unsaid.

    Raises:
        AcceleratorError: the delegate does not load.
    """
    # Without XNNPACK, which is a delegate as well, and takes what is left.
    interpreter = _interpreter(file, delegate, 1, resolver=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    return sum(operator["op_name"] == "DELEGATE" for operator in interpreter._get_ops_details())


def _zero_points(tensors: Sequence[dict[str, Any]]) -> list[TensorArray]:
    return [np.full(tensor["shape"], tensor["quantization"][1], tensor["dtype"]) for tensor in tensors]


def _interpreter(
    file: Path,
    device: Device,
    num_threads: int,
    input_shape: tuple[int, ...] | None = None,
    resolver: OpResolverType = OpResolverType.AUTO,
) -> Interpreter:
    try:
        with _held_back(_pass_on):
            delegates = [] if device.library is None else [_delegate(device.library)]
            interpreter = Interpreter(
                model_path=str(file),
                num_threads=num_threads,
                experimental_delegates=delegates or None,
                experimental_op_resolver_type=resolver,
            )
            if input_shape is not None:
                interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], input_shape)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError, OSError, AttributeError) as error:  # the last two: not a delegate
        if device.library is None:
            raise ModelError(f"model file {file}: LiteRT cannot load it ({_one_line(error)})") from error
        raise AcceleratorError(_one_line(error)) from error
    return interpreter


def _delegate(library: str) -> Any:  # noqa: ANN401  LiteRT's own
    loaded = ctypes.PyDLL(library)
    for entry in ("tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate"):
        getattr(loaded, entry)  # LiteRT's half-made Delegate would complain a second time when it is collected (2.3.0)
    return load_delegate(library)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _cause(told: Sequence[bytes]) -> str:
    """Why the GPU does not load: the exception does not say, but standard error does (2.3.0)."""
    lines = b"".join(told).decode(errors="replace").splitlines()
    causes = [line for line in lines if re.search(r"Couldn't|Failed loading|required|no drivers|^ERROR", line)]
    return "; ".join(re.sub(r"^\w+: (\[[^]]*\] )?", "", cause).strip(" .") for cause in causes[:2])


def _pass_on(told: bytes) -> None:
    with suppress(OSError):  # nobody reads it
        os.write(STDERR, told.replace(LITERT_GREETING, b""))


@contextmanager
def _held_back(take: Callable[[bytes], None]) -> Iterator[None]:
    """Hold back what goes to standard output and error while LiteRT loads, and hand it over; one thread at a time.

    To standard output too, where results go: the GPU's part of LiteRT writes there (2.3.0). One of the two that is
    closed is left alone.
    """
    with _loading:
        kept = []
        for number in (STDOUT, STDERR):
            with suppress(OSError):  # it is closed
                kept.append((number, fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, STDERR + 1)))  # not as the closed one
        reader, writer = os.pipe()
        os.set_blocking(writer, False)  # a full pipe loses lines rather than hang the agent
        for number, _ in kept:
            os.dup2(writer, number)
        os.close(writer)
        try:
            yield
        finally:
            for number, before in kept:
                os.dup2(before, number)  # the second one closes the last writing end
                os.close(before)
            with os.fdopen(reader, "rb") as held_back:
                take(held_back.read())
