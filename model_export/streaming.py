"""The embedding network in its streaming form: a few frames and the past in, a column of the last map out.

In: the windowed `.tflite` file, time-valid and full int8. Out: a `.tflite` file with the very same weights and
quantization, in which every convolution finds the two columns before its chunk in a state tensor and gives its own last
two back. Nothing is rounded anew, so both forms agree to the last bit: a window's embedding is the maximum of its last
columns.

Source: streaming convolutions with external state, Rybakov et al., Interspeech 2020.
"""

import copy
from collections.abc import Sequence
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from agent.errors import ModelError
from agent.model_card import StreamingCard, sha256_of

STREAMING_NAME = "embedding_streaming.tflite"
KEPT_COLUMNS = 2  # a convolution three columns wide needs two of the past
TIME, CHANNELS = 1, 3  # axes of a map: (1, time, bands, channels)
POINTWISE = {"MUL", "ADD"}
NAMES: dict[int, str] = {
    number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}


def write_streaming(windowed: Path, out: Path, *, chunk_frames: int) -> None:
    """Write the streaming form of an embedding network.

    Its first input is (1, chunk_frames, n_mels, 1) and may be resized to several chunks; its first output is
    (1, n_columns, d), one column a chunk. The inputs and outputs that follow are the states, in the same order, each
    (1, 2, bands, channels); the state of silence before all sound is the zero point.

    Args:
        windowed: the windowed network; its operators stand in one line.
        out: the file to write.
        chunk_frames: frames that move the last map by one column.

    Raises:
        ModelError: an operator that the L3 audio network does not have, or frames that the pools do not divide.
    """
    model = schema.ModelT.InitFromPackedBuf(windowed.read_bytes())
    _Rewriter(model, windowed).rewrite(chunk_frames)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    out.write_bytes(bytes(builder.Output()))


def streaming_card(windowed: Path, streaming: Path) -> StreamingCard:
    """What the streaming form is, read from both files."""
    streams, windows = (
        schema.ModelT.InitFromPackedBuf(file.read_bytes()).subgraphs[0] for file in (streaming, windowed)
    )
    return StreamingCard(
        file=streaming.name,
        sha256=sha256_of(streaming),
        chunk_frames=int(streams.tensors[streams.inputs[0]].shape[TIME]),
        window_columns=int(windows.tensors[windows.operators[-1].inputs[0]].shape[TIME]),
    )


class _Rewriter:
    """Changes a network in memory, operator by operator."""

    def __init__(self, model: schema.ModelT, file: Path) -> None:
        self._model, self._file = model, file
        (self._graph,) = model.subgraphs
        self._states: list[tuple[int, int]] = []  # tensors: before, after
        self._operators: list[schema.OperatorT] = []
        for tensor in self._graph.tensors:
            tensor.shape, tensor.shapeSignature = [int(length) for length in tensor.shape], None
        self._windowed = [list(tensor.shape) for tensor in self._graph.tensors]

    def rewrite(self, chunk_frames: int) -> None:
        """Turn the windowed network into the streaming one."""
        graph = self._graph
        (window,), (embedding,) = graph.inputs, graph.outputs
        n_frames = graph.tensors[window].shape[TIME] = chunk_frames
        padded: set[int] = set()
        for operator in graph.operators:
            name = self._name(operator)
            first, answer = operator.inputs[0], graph.tensors[operator.outputs[0]]
            if name == "PAD":
                operator.inputs = [self._with_past(first), *operator.inputs[1:]]
                answer.shape[TIME] = n_frames + KEPT_COLUMNS
                padded.add(operator.outputs[0])
            elif name == "REDUCE_MAX":
                operator.inputs = [first, self._constant([CHANNELS - 1])]  # over the bands, not over time
                answer.shape = [1, n_frames, graph.tensors[first].shape[CHANNELS]]
            elif name == "MAX_POOL_2D":
                stride = operator.builtinOptions.strideH
                n_frames, rest = divmod(n_frames, stride)
                if rest:
                    raise ModelError(f"model file {self._file}: chunks of {chunk_frames} frames leave half a pool over")
                if self._windowed[first][TIME] % stride:  # its columns would lie elsewhere than those of the stream
                    raise ModelError(
                        f"model file {self._file}: a pool gets {self._windowed[first][TIME]} columns of a window, "
                        f"expected a multiple of {stride}: take windows of another length"
                    )
                answer.shape[TIME] = n_frames
            elif name in POINTWISE or name == "CONV_2D":
                if name == "CONV_2D" and first not in padded:
                    operator.inputs = [self._with_past(first), *operator.inputs[1:]]
                answer.shape[TIME] = n_frames
            else:
                raise ModelError(f"model file {self._file}: operator {name}, expected those of an L3 audio network")
            self._operators.append(operator)
        graph.operators = self._operators
        graph.inputs = [window, *(before for before, _ in self._states)]
        graph.outputs = [embedding, *(after for _, after in self._states)]
        self._model.signatureDefs = None  # it named the inputs that were

    def _name(self, operator: schema.OperatorT) -> str:
        code = self._model.operatorCodes[operator.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)  # the newer field is 0 where the older serves
        return NAMES.get(number, str(number))

    def _with_past(self, chunk: int) -> int:
        """A convolution follows: put the past before the chunk, and give what is past to the next chunk."""
        n_frames, *rest = self._graph.tensors[chunk].shape[TIME:]
        number = len(self._states) + 1
        before = self._tensor_like(chunk, [1, KEPT_COLUMNS, *rest], f"state{number}")
        joined = self._tensor_like(chunk, [1, KEPT_COLUMNS + n_frames, *rest], f"joined{number}")
        after = self._tensor_like(chunk, [1, KEPT_COLUMNS, *rest], f"next_state{number}")
        self._states.append((before, after))

        concatenation = self._operator("CONCATENATION", [before, chunk], joined, schema.ConcatenationOptionsT())
        concatenation.builtinOptions.axis = TIME
        zeros, ones = [0, 0, 0, 0], [1, 1, 1, 1]
        begin = self._constant([0, -KEPT_COLUMNS, 0, 0])
        operands = [joined, begin, self._constant(zeros), self._constant(ones)]
        last_columns = self._operator("STRIDED_SLICE", operands, after, schema.StridedSliceOptionsT())
        last_columns.builtinOptions.beginMask = 0b1101  # all axes but time begin at their beginning
        last_columns.builtinOptions.endMask = 0b1111
        return joined

    def _tensor_like(self, tensor: int, shape: Sequence[int], name: str) -> int:
        """A tensor with the same type and quantization, and no content of its own."""
        like = copy.copy(self._graph.tensors[tensor])
        like.shape, like.name, like.buffer = list(shape), name, 0
        self._graph.tensors.append(like)
        return len(self._graph.tensors) - 1

    def _constant(self, values: Sequence[int]) -> int:
        content, tensor = schema.BufferT(), schema.TensorT()
        content.data = np.frombuffer(np.asarray(values, np.int32).tobytes(), np.uint8)
        self._model.buffers.append(content)
        tensor.shape, tensor.type, tensor.buffer = [len(values)], schema.TensorType.INT32, len(self._model.buffers) - 1
        tensor.name = f"constant{len(self._graph.tensors)}"
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _operator(self, name: str, inputs: list[int], output: int, options: object) -> schema.OperatorT:
        number = getattr(schema.BuiltinOperator, name)
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = number
        code.version = 1
        codes = self._model.operatorCodes
        known = [index for index, other in enumerate(codes) if other.builtinCode == number]
        operator = schema.OperatorT()
        operator.opcodeIndex = known[0] if known else len(codes)
        if not known:
            codes.append(code)
        operator.inputs, operator.outputs = inputs, [output]
        operator.builtinOptions = options
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self._operators.append(operator)
        return operator
