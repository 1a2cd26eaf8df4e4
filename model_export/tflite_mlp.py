"""An `Mlp` to full int8 TFLite, without TensorFlow.

In: a trained `Mlp`, the tensor that it reads, embeddings to calibrate on. Out: a `.tflite` file with int8 weights (a
scale for each unit), int8 activations, int8 in and out; and what it answers.

Source: the TFLite 8-bit quantization specification (biases int32, weights symmetric, softmax 1/256 from -128).
"""

from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from agent.inference import dequantize, quantize
from agent.model_card import TensorCard
from agent.values import FloatArray
from model_export.mlp import Mlp

SCHEMA_VERSION = 3
FULLY_CONNECTED_VERSION = 12  # the first in which each unit may have its own scale
SOFTMAX_VERSION = 2  # the first in int8
SOFTMAX_SCALE, SOFTMAX_ZERO_POINT = 1 / 256, -128
MIN_UNIT_RANGE = 1e-3  # of the layer's largest weight: a unit without weights needs a scale, too


def input_of(embedding: TensorCard, embeddings: FloatArray) -> TensorCard:
    """What a network reads after this output: the same int8 steps; after float32, steps that span these embeddings."""
    if embedding.dtype == "int8":
        return embedding
    scale, zero_point = _affine(embeddings)
    return TensorCard(shape=embedding.shape, dtype="int8", scale=scale, zero_point=zero_point)


def write_mlp(mlp: Mlp, reads: TensorCard, embeddings: FloatArray, file: Path) -> None:
    """Quantize a network and write it.

    Args:
        mlp: embedding to likelihoods.
        reads: its input (`input_of`).
        embeddings: float32 (n, d), which fix the ranges of the activations.
        file: the TFLite file to write.
    """
    graph = _Graph()
    values = graph.activation("embedding", reads.shape[1], reads.scale, reads.zero_point)
    scale = reads.scale
    activations = mlp.activations(embeddings)[1:]
    for number, (weights, bias, outputs) in enumerate(zip(mlp.weights, mlp.biases, activations, strict=True), start=1):
        is_last = number == len(mlp.weights)
        ranges = np.abs(weights).max(axis=0)  # (n_units,)
        scales = (np.maximum(ranges, MIN_UNIT_RANGE * ranges.max()) / 127.0).astype(np.float32)
        kernel = graph.constant(f"weights{number}", np.rint(weights / scales).astype(np.int8).T, scales)
        bias_scales = scales * np.float32(scale)
        offset = graph.constant(f"bias{number}", np.rint(bias / bias_scales).astype(np.int32), bias_scales)
        scale, zero_point = _affine(outputs, finest=float(bias_scales.max()))
        answer = graph.activation("sums" if is_last else f"hidden{number}", len(bias), scale, zero_point)
        graph.dense([values, kernel, offset], answer, has_relu=not is_last)
        values = answer
    likelihoods = graph.activation("likelihoods", len(mlp.biases[-1]), SOFTMAX_SCALE, SOFTMAX_ZERO_POINT)
    graph.softmax(values, likelihoods)
    file.write_bytes(graph.packed())


def run_mlp(file: Path, reads: TensorCard, embeddings: FloatArray) -> FloatArray:
    """What the file answers to embeddings, float32 (n, d).

    Returns:
        float32 (n, n_labels).
    """
    interpreter = Interpreter(model_path=str(file), num_threads=1)
    interpreter.allocate_tensors()
    (into,), (out_of,) = interpreter.get_input_details(), interpreter.get_output_details()
    answers = TensorCard(
        shape=tuple(out_of["shape"].tolist()), dtype="int8", scale=SOFTMAX_SCALE, zero_point=SOFTMAX_ZERO_POINT
    )
    rows = []
    for steps in quantize(embeddings, reads):
        interpreter.set_tensor(into["index"], steps[None])
        interpreter.invoke()
        rows.append(dequantize(interpreter.get_tensor(out_of["index"])[0], answers))
    return np.stack(rows)


def _affine(values: FloatArray, finest: float = 0.0) -> tuple[float, int]:
    """Scale and zero point of an int8 tensor that holds these values, and 0.

    Args:
        values: what it holds.
        finest: the steps in which they are summed up; LiteRT runs no network that answers in much finer ones.
    """
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    scale = max((high - low) / 255, finest) or 1.0
    return scale, round(-128 - low / scale)


class _Graph:
    """A graph of dense layers as it grows; its tensors are numbers."""

    def __init__(self) -> None:
        self._graph = schema.SubGraphT(name="main", tensors=[], inputs=[0], operators=[])
        self._buffers = [schema.BufferT()]  # the first stands for "no data"

    def activation(self, name: str, n_values: int, scale: float, zero_point: int) -> int:
        """A tensor int8 (1, n_values) that is computed, or fed."""
        tensor = schema.TensorT(name=name, shape=np.array([1, n_values], np.int32), type=schema.TensorType.INT8)
        return self._add(tensor, np.array([scale], np.float32), zero_point)

    def constant(self, name: str, steps: NDArray[np.int8] | NDArray[np.int32], scales: FloatArray) -> int:
        """Weights int8 (n_units, n_inputs) or a bias int32 (n_units,), with a scale for each unit."""
        self._buffers.append(schema.BufferT(data=np.frombuffer(steps.tobytes(), np.uint8)))
        kind = schema.TensorType.INT8 if steps.dtype == np.int8 else schema.TensorType.INT32
        tensor = schema.TensorT(
            name=name, shape=np.array(steps.shape, np.int32), type=kind, buffer=len(self._buffers) - 1
        )
        return self._add(tensor, scales, 0)

    def _add(self, tensor: schema.TensorT, scales: FloatArray, zero_point: int) -> int:
        zero_points = np.full(len(scales), zero_point, np.int64)
        tensor.quantization = schema.QuantizationParametersT(scale=scales, zeroPoint=zero_points)
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def dense(self, inputs: list[int], output: int, *, has_relu: bool) -> None:
        """A dense layer of values, weights and bias."""
        functions = schema.ActivationFunctionType
        options = schema.FullyConnectedOptionsT(fusedActivationFunction=functions.RELU if has_relu else functions.NONE)
        self._operator(0, inputs, output, schema.BuiltinOptions.FullyConnectedOptions, options)

    def softmax(self, values: int, output: int) -> None:
        """What the network answers."""
        self._operator(1, [values], output, schema.BuiltinOptions.SoftmaxOptions, schema.SoftmaxOptionsT(beta=1.0))
        self._graph.outputs = [output]

    def _operator(self, code: int, inputs: list[int], output: int, kind: int, options: object) -> None:
        self._graph.operators.append(
            schema.OperatorT(code, inputs, [output], builtinOptionsType=kind, builtinOptions=options)
        )

    def packed(self) -> bytes:
        """The whole file."""
        operators = schema.BuiltinOperator
        codes = (operators.FULLY_CONNECTED, FULLY_CONNECTED_VERSION), (operators.SOFTMAX, SOFTMAX_VERSION)
        model = schema.ModelT(
            version=SCHEMA_VERSION,
            operatorCodes=[
                schema.OperatorCodeT(deprecatedBuiltinCode=code, builtinCode=code, version=version)
                for code, version in codes
            ],
            subgraphs=[self._graph],
            buffers=self._buffers,
        )
        builder = flatbuffers.Builder()
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())
