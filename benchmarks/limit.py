"""How much a network has to compute, and how much a core can.

In: a `.tflite` file. Out: its multiplications; and the most that LiteRT gets out of one core with int8.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from agent.model_card import TensorCard
from model_export.mlp import Mlp
from model_export.tflite_mlp import write_mlp

# Matrices that stay in a core's cache and are large enough for its kernels: (rows, inputs and outputs).
PEAK_SHAPES = ((128, 768), (256, 768), (256, 1024), (512, 1024))
PEAK_ROUNDS = 30
N_LABELS = 16


def multiplications(file: Path) -> int:
    """Multiplications of a network's convolutions and dense layers, for one call."""
    model = schema.ModelT.InitFromPackedBuf(file.read_bytes())
    (graph,) = model.subgraphs
    total = 0
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        name = max(code.builtinCode, code.deprecatedBuiltinCode)
        weights = graph.tensors[operator.inputs[1]].shape if len(operator.inputs) > 1 else ()
        answer = graph.tensors[operator.outputs[0]].shape
        if name in (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.FULLY_CONNECTED):
            # (outputs, height, width, inputs) or (outputs, inputs): each output value is a sum over all but the first.
            total += int(np.prod(answer)) * int(np.prod(weights[1:]))
        elif name == schema.BuiltinOperator.DEPTHWISE_CONV_2D:
            total += int(np.prod(answer)) * int(np.prod(weights[1:3]))
    return total


def peak_per_s() -> float:
    """Multiplications in int8 that one core does in a second of its time, at most, with large matrices."""
    best = 0.0
    with tempfile.TemporaryDirectory(prefix="urbansound-peak-") as folder:
        for rows, size in PEAK_SHAPES:
            file = Path(folder) / f"{rows}-{size}.tflite"
            _write_square(file, size)
            best = max(best, rows * multiplications(file) / _least_s(file, rows, size))
    return best


def _write_square(file: Path, size: int) -> None:
    """Two square layers and a small one."""
    rng = np.random.default_rng(0)
    shapes = ((size, size), (size, size), (size, N_LABELS))
    mlp = Mlp(
        tuple(rng.normal(0.0, size**-0.5, shape).astype(np.float32) for shape in shapes),
        tuple(np.zeros(shape[1], np.float32) for shape in shapes),
    )
    reads = TensorCard(shape=(1, size), dtype="int8", scale=0.03, zero_point=-128)
    write_mlp(mlp, reads, rng.uniform(0.0, 7.6, (8, size)).astype(np.float32), file)


def _least_s(file: Path, rows: int, size: int) -> float:
    interpreter = Interpreter(model_path=str(file), num_threads=1)
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], (rows, size))
    interpreter.allocate_tensors()
    times_s = []
    for _ in range(PEAK_ROUNDS):
        begun_s = time.process_time()
        interpreter.invoke()
        times_s.append(time.process_time() - begun_s)
    return min(times_s[1:])
