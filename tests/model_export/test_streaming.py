"""The streaming form computes what the windowed form computes, and only networks that can be streamed are."""

from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from agent.errors import ModelError
from agent.model_card import DEFAULT_MODEL, load_model_folder
from model_export.streaming import KEPT_COLUMNS, streaming_card, write_streaming
from tests.test_inference import network_of

WINDOWED = DEFAULT_MODEL / "embedding.tflite"
N_FRAMES, LEAD = 76, 4  # a window, and the frames before it that make it a whole number of chunks


def columns(file: Path, frames: np.ndarray, *, chunk: int) -> np.ndarray:
    """Run the streaming form over int8 frames (n, n_mels), several chunks at once; gives (n_columns, d)."""
    interpreter = Interpreter(model_path=str(file), num_threads=1)
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], (1, chunk, 64, 1))
    interpreter.allocate_tensors()
    first, *before = interpreter.get_input_details()
    last_map, *after = interpreter.get_output_details()
    states = [np.full(state["shape"], state["quantization"][1], np.int8) for state in before]
    found = []
    for start in range(0, len(frames) - chunk + 1, chunk):
        interpreter.set_tensor(first["index"], frames[None, start : start + chunk, :, None])
        for state, values in zip(before, states, strict=True):
            interpreter.set_tensor(state["index"], values)
        interpreter.invoke()
        states = [interpreter.get_tensor(state["index"]) for state in after]
        found.append(interpreter.get_tensor(last_map["index"])[0])
    return np.concatenate(found)


@pytest.mark.parametrize("chunk", [8, 16, 80])
def test_a_window_is_the_maximum_of_its_last_columns(tmp_path: Path, chunk: int) -> None:
    """For chunks of any length, and to the last bit."""
    write_streaming(WINDOWED, tmp_path / "streaming.tflite", chunk_frames=8)
    frames = np.random.default_rng(0).integers(-128, 128, (400 - LEAD, 64), np.int8)
    windowed = Interpreter(model_path=str(WINDOWED), num_threads=1)
    windowed.allocate_tensors()
    expected = []
    for start in range(0, len(frames) - N_FRAMES + 1, 8):
        windowed.set_tensor(windowed.get_input_details()[0]["index"], frames[None, start : start + N_FRAMES, :, None])
        windowed.invoke()
        expected.append(windowed.get_tensor(windowed.get_output_details()[0]["index"])[0])

    got = columns(tmp_path / "streaming.tflite", np.pad(frames, ((LEAD, 0), (0, 0))), chunk=chunk)

    first = (N_FRAMES + LEAD) // 8 - 2
    np.testing.assert_array_equal(np.maximum(got[first:-1], got[first + 1 :]), expected)


def test_the_past_is_two_columns_before_each_convolution(tmp_path: Path) -> None:
    """A chunk and eight states go in, a column and the same states come out: nothing is hidden in the file."""
    write_streaming(WINDOWED, tmp_path / "streaming.tflite", chunk_frames=8)
    interpreter = Interpreter(model_path=str(tmp_path / "streaming.tflite"))
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()

    assert [tuple(tensor["shape"]) for tensor in (inputs[0], outputs[0])] == [(1, 8, 64, 1), (1, 1, 240)]
    assert len(inputs) == len(outputs) == 1 + 8
    for before, after in zip(inputs[1:], outputs[1:], strict=True):
        assert before["shape"][1] == KEPT_COLUMNS
        assert (tuple(before["shape"]), before["quantization"]) == (tuple(after["shape"]), after["quantization"])


def test_the_shipped_streaming_form_is_made_of_the_shipped_network(tmp_path: Path) -> None:
    """The two forms in the model folder cannot drift apart."""
    model = load_model_folder(DEFAULT_MODEL)
    assert model.card.streaming is not None
    assert model.streaming_file is not None
    write_streaming(WINDOWED, tmp_path / "streaming.tflite", chunk_frames=model.card.streaming.chunk_frames)
    frames = np.random.default_rng(0).integers(-128, 128, (160, 64), np.int8)

    np.testing.assert_array_equal(
        columns(model.streaming_file, frames, chunk=8), columns(tmp_path / "streaming.tflite", frames, chunk=8)
    )
    assert streaming_card(WINDOWED, model.streaming_file) == model.card.streaming


def test_what_cannot_be_streamed_is_named(tmp_path: Path) -> None:
    """Another kind of network, and chunks that a pool would cut in half."""
    other = tmp_path / "other.tflite"
    other.write_bytes(network_of([(1, 76, 64, 1)] * 2, is_float=False))

    with pytest.raises(ModelError, match=rf"{other}: operator LOGISTIC, expected those of an L3 audio network"):
        write_streaming(other, tmp_path / "out.tflite", chunk_frames=8)
    with pytest.raises(ModelError, match="chunks of 4 frames leave half a pool over"):
        write_streaming(WINDOWED, tmp_path / "out.tflite", chunk_frames=4)
    with pytest.raises(ModelError, match="a pool gets 73 columns of a window, expected a multiple of 2"):
        write_streaming(longer_by_one(tmp_path / "longer.tflite"), tmp_path / "out.tflite", chunk_frames=8)
    assert not (tmp_path / "out.tflite").exists()


def longer_by_one(file: Path) -> Path:
    """The network with windows of a frame more, of which the first pool leaves one over."""
    model = schema.ModelT.InitFromPackedBuf(WINDOWED.read_bytes())
    for tensor in model.subgraphs[0].tensors:
        if len(tensor.shape) == 4 and tensor.shape[0] == 1 and tensor.shape[1] >= 72:
            tensor.shape = [1, tensor.shape[1] + 1, *tensor.shape[2:]]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    file.write_bytes(bytes(builder.Output()))
    return file
