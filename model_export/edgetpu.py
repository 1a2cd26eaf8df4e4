"""What of a `.tflite` file would map to Coral's Edge TPU, by the rules that Coral documents.

In: a `.tflite` file. Out: for each operator, why it would not map, or nothing. This is no compiler: whether a file
maps, only `edgetpu_compiler` says, which may leave out what the rules allow. It stops at the first operator that does
not map: that one and all after it run on the CPU.

Source: Coral, "TensorFlow models on the Edge TPU", model requirements and supported operations (runtime 14).
"""

import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from agent.errors import ModelError
from model_export.streaming import NAMES

MAX_DIMENSIONS = 3
SOFTMAX_MAX = 16_000
EIGHT_BITS = (schema.TensorType.INT8, schema.TensorType.UINT8)
TYPES = {number: name.lower() for name, number in vars(schema.TensorType).items() if not name.startswith("_")}


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of a file.

    Attributes:
        number: where it stands, from 0.
        name: as in the schema, such as `CONV_2D`.
        problem: why it would not map; None where the rules allow it.
    """

    number: int
    name: str
    problem: str | None


class _Seen:
    """An operator with its tensors, as the rules look at it."""

    def __init__(self, model: schema.ModelT, operator: schema.OperatorT) -> None:
        self._buffers, tensors = model.buffers, model.subgraphs[0].tensors
        self.inputs = [
            tensors[index] for index in operator.inputs if index >= 0
        ]  # -1: an optional one that is not there
        self.outputs = [tensors[index] for index in operator.outputs]
        self.options = operator.builtinOptions

    def constant(self, tensor: schema.TensorT) -> np.ndarray | None:
        """Its content, as it lies in the file; None where it is computed."""
        content = self._buffers[tensor.buffer].data
        return None if content is None or len(content) == 0 else np.asarray(content).view(np.uint8)

    def integers(self, index: int) -> list[int]:
        """An input that holds sizes, places or axes."""
        if index >= len(self.inputs) or (content := self.constant(self.inputs[index])) is None:
            return []
        return [int(value) for value in content.view(np.int32)]

    def axes(self, index: int) -> list[int]:
        """An input that holds axes, counted from the front."""
        n = len(self.inputs[0].shape)
        return [axis % n for axis in self.integers(index)]


Rule = Callable[[_Seen], str | None]


def _anything(_seen: _Seen) -> None:
    return None


def _no_activation(seen: _Seen) -> str | None:
    fused = seen.options.fusedActivationFunction
    return None if fused == schema.ActivationFunctionType.NONE else "has an activation in it, expected none"


def _concatenation(seen: _Seen) -> str | None:
    constants = [content for tensor in seen.inputs if (content := seen.constant(tensor)) is not None]
    if constants and (len(seen.inputs) != 2 or any(content.any() for content in constants)):
        return "joins with a constant, expected two inputs, and zeros"
    return _no_activation(seen)


def _one_dilation(seen: _Seen) -> str | None:
    along = (seen.options.dilationHFactor, seen.options.dilationWFactor)
    return None if along[0] == along[1] else f"dilations {along}, expected the same along both axes"


def _fully_connected(seen: _Seen) -> str | None:
    if seen.options.weightsFormat != schema.FullyConnectedOptionsWeightsFormat.DEFAULT:
        return "weights in a format that is not the default one"
    return _one_dimension(seen.outputs[0], "output")


def _softmax(seen: _Seen) -> str | None:
    n = int(np.prod(seen.inputs[0].shape))
    return f"{n} values, expected at most {SOFTMAX_MAX}" if n > SOFTMAX_MAX else _one_dimension(seen.inputs[0], "input")


def _one_dimension(tensor: schema.TensorT, role: str) -> str | None:
    shape = _lengths(tensor.shape)
    return f"{role} {shape}, expected one dimension above 1" if sum(length > 1 for length in shape) > 1 else None


def _not_batch(seen: _Seen) -> str | None:
    return "reduces the batch dimension" if 0 in seen.axes(1) else None


def _mean(seen: _Seen) -> str | None:
    last = len(seen.inputs[0].shape) - 1
    if last in seen.axes(1) and seen.inputs[0].shape[last] % 4:
        return f"the mean of {seen.inputs[0].shape[last]} channels, expected a multiple of 4"
    return _not_batch(seen)


def _pad(seen: _Seen) -> str | None:
    return "pads the batch dimension" if len(seen.inputs[0].shape) == 4 and any(seen.integers(1)[:2]) else None


def _pack(seen: _Seen) -> str | None:
    return "packs along the batch dimension" if seen.options.axis == 0 else None


def _split(seen: _Seen) -> str | None:
    return "splits the batch dimension" if 0 in seen.integers(0) else None


def _prelu(seen: _Seen) -> str | None:
    return _one_dimension(seen.inputs[1], "alpha")


def _strided_slice(seen: _Seen) -> str | None:
    strides = seen.integers(3)
    if any(stride != 1 for stride in strides):
        return f"strides {strides}, expected 1"
    if seen.options.ellipsisMask or seen.options.newAxisMask:
        return "ellipsis or new axis, expected neither"
    return None


RULES: dict[str, Rule] = {
    "ADD": _anything,
    "AVERAGE_POOL_2D": _no_activation,
    "CONCATENATION": _concatenation,
    "CONV_2D": _one_dilation,
    "DEPTHWISE_CONV_2D": _one_dilation,
    "EXPAND_DIMS": _anything,
    "FULLY_CONNECTED": _fully_connected,
    "L2_NORMALIZATION": _anything,
    "LOGISTIC": _anything,
    "MAXIMUM": _anything,
    "MAX_POOL_2D": _no_activation,
    "MEAN": _mean,
    "MINIMUM": _anything,
    "MUL": _anything,
    "PACK": _pack,
    "PAD": _pad,
    "PRELU": _prelu,
    "QUANTIZE": _anything,
    "REDUCE_MAX": _not_batch,
    "REDUCE_MIN": _not_batch,
    "RELU": _anything,
    "RELU6": _anything,
    "RELU_N1_TO_1": _anything,
    "RESHAPE": _anything,
    "RESIZE_BILINEAR": _anything,
    "RESIZE_NEAREST_NEIGHBOR": _anything,
    "RSQRT": _anything,
    "SLICE": _anything,
    "SOFTMAX": _softmax,
    "SPACE_TO_DEPTH": _anything,
    "SPLIT": _split,
    "SQUARED_DIFFERENCE": _anything,
    "SQUEEZE": _anything,
    "STRIDED_SLICE": _strided_slice,
    "SUB": _anything,
    "SUM": _not_batch,
    "TANH": _anything,
    "TRANSPOSE": _anything,
    "TRANSPOSE_CONV": _anything,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _anything,
}
# Inputs that hold weights: what the compiler must know.
PARAMETERS = {
    "CONV_2D": (1, 2),
    "DEPTHWISE_CONV_2D": (1, 2),
    "FULLY_CONNECTED": (1, 2),
    "TRANSPOSE_CONV": (0, 1),
    "PAD": (1,),
    "PRELU": (1,),
    "MEAN": (1,),
    "SUM": (1,),
    "REDUCE_MAX": (1,),
    "REDUCE_MIN": (1,),
    "STRIDED_SLICE": (1, 2, 3),
}


def operators_of(file: Path) -> list[Operator]:
    """Hold each operator of a file against the rules.

    Raises:
        ModelError: the file cannot be read, or is no whole TFLite file.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ModelError(f"model file {file}: cannot be read ({error.strerror})") from error
    if not schema.Model.ModelBufferHasIdentifier(content, 0):
        raise ModelError(f"model file {file}: is no TFLite file, expected the identifier TFL3")
    try:
        model = schema.ModelT.InitFromPackedBuf(content)
        n_graphs, found = len(model.subgraphs), list(_operators(model))
    except (struct.error, TypeError, ValueError, LookupError, AttributeError) as error:  # lies where nothing can be
        raise ModelError(f"model file {file}: is no whole TFLite file ({error})") from error
    if n_graphs != 1:
        raise ModelError(f"model file {file}: has {n_graphs} graphs, expected 1")
    return found


def _operators(model: schema.ModelT) -> Iterator[Operator]:
    for number, operator in enumerate(model.subgraphs[0].operators):
        code = model.operatorCodes[operator.opcodeIndex]
        kind = max(code.builtinCode, code.deprecatedBuiltinCode)  # the newer field is 0 where the older serves
        name = NAMES.get(kind, str(kind))
        if kind == schema.BuiltinOperator.CUSTOM:
            name = f"CUSTOM {(code.customCode or b'').decode(errors='replace')}"
        yield Operator(number, name, _problem(name, _Seen(model, operator)))


def _problem(name: str, seen: _Seen) -> str | None:
    if name not in RULES:
        return "is not supported"
    return next(_tensor_problems(name, seen), None) or RULES[name](seen)


def _tensor_problems(name: str, seen: _Seen) -> Iterator[str]:
    for index in PARAMETERS.get(name, ()):
        if index < len(seen.inputs) and seen.constant(seen.inputs[index]) is None:
            yield f"input {index} is computed, expected a constant"
    for tensor in (*seen.inputs, *seen.outputs):
        if any(length < 0 for length in _lengths(tensor.shapeSignature)):
            yield f"{_name(tensor)} has a length that is not known before it runs"
        is_index = seen.constant(tensor) is not None and tensor.type == schema.TensorType.INT32  # sizes, axes, biases
        if tensor.type not in EIGHT_BITS and not is_index:
            yield f"{_name(tensor)} is {TYPES[tensor.type]}, expected int8 or uint8"
        if seen.constant(tensor) is None and any(length > 1 for length in _lengths(tensor.shape)[:-MAX_DIMENSIONS]):
            shape = _lengths(tensor.shape)
            yield f"{_name(tensor)} is {shape}, expected only the last {MAX_DIMENSIONS} dimensions above 1"


def _name(tensor: schema.TensorT) -> str:
    name = (tensor.name or b"").decode(errors="replace").partition(";")[0]  # the converter joins all that it merged
    return f"tensor {name}"


def _lengths(shape: Sequence[int] | None) -> tuple[int, ...]:
    return () if shape is None else tuple(int(length) for length in shape)


def as_text(file: Path, operators: Sequence[Operator]) -> str:
    """For people: what would map, in the order of the file, and why the rest would not."""
    first = next((operator.number for operator in operators if operator.problem), len(operators))
    lines = [f"{file}: {first} of {len(operators)} operators would map to an Edge TPU, by Coral's rules; not compiled"]
    if first:
        counts = Counter(operator.name for operator in operators[:first])
        lines.append("  maps: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    for (name, problem), group in groupby(operators[first:], key=lambda operator: (operator.name, operator.problem)):
        numbers = [operator.number for operator in group]
        where = f"operator {numbers[0]}" if len(numbers) == 1 else f"operators {numbers[0]} to {numbers[-1]}"
        lines.append(f"  {where}, {name}: {problem or 'would, but comes after one that does not: on the CPU'}")
    return "\n".join(lines) + "\n"
