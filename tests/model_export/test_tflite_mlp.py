"""The MLP as a TFLite file."""

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from agent.inference import dequantize
from agent.model_card import TensorCard
from agent.values import FloatArray
from model_export.mlp import Mlp, train
from model_export.tflite_mlp import input_of, run_mlp, write_mlp

READS = TensorCard(shape=(1, 24), dtype="int8", scale=0.03, zero_point=-128)


@pytest.fixture
def mlp() -> Mlp:
    """Units of different size, and a standardization folded in."""
    rng = np.random.default_rng(0)
    shapes = ((24, 32), (32, 16), (16, 5))
    weights = [(rng.normal(size=shape) * np.sqrt(2 / shape[0])).astype(np.float32) for shape in shapes]
    weights[0] *= np.geomspace(0.1, 1, 32, dtype=np.float32)
    biases = [rng.normal(size=shape[1]).astype(np.float32) for shape in shapes]
    return Mlp(tuple(weights), tuple(biases)).on_raw(np.full(24, 3.8, np.float32), np.full(24, 1.0, np.float32))


@pytest.fixture
def embeddings() -> FloatArray:
    """All that the embedding network could say, at random."""
    return dequantize(np.random.default_rng(1).integers(-128, 128, (300, 24)).astype(np.int8), READS)


def test_the_file_says_what_numpy_says(mlp: Mlp, embeddings: FloatArray, tmp_path: Path) -> None:
    """LiteRT gives the likelihoods of the float network, but for what 8 bits lose."""
    write_mlp(mlp, READS, embeddings, tmp_path / "mlp.tflite")

    said, expected = run_mlp(tmp_path / "mlp.tflite", READS, embeddings), mlp.likelihoods(embeddings)

    assert said.shape == (300, 5)
    assert len(set(expected.argmax(axis=1))) > 2
    assert np.abs(said - expected).mean() < 0.01
    assert (said.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.95


def test_embeddings_that_are_all_the_same_make_a_network_that_runs(tmp_path: Path) -> None:
    """Of digital silence in all classes nothing is left but rounding: it is judged by chance, and not a traceback."""
    same = np.full((8, 24), 1.5, np.float32)
    trained = train(same, np.repeat([0, 1], 4), np.ones(8), n_labels=2, seed=0)
    write_mlp(trained, READS, same, tmp_path / "mlp.tflite")

    np.testing.assert_allclose(run_mlp(tmp_path / "mlp.tflite", READS, same), 0.5, atol=0.05)


def test_the_file_is_int8_throughout(mlp: Mlp, embeddings: FloatArray, tmp_path: Path) -> None:
    """It takes the embedding's steps and answers in 256 steps from 0 to 1; no tensor is float."""
    write_mlp(mlp, READS, embeddings, tmp_path / "mlp.tflite")
    interpreter = Interpreter(model_path=str(tmp_path / "mlp.tflite"))
    (into,), (out_of,) = interpreter.get_input_details(), interpreter.get_output_details()

    assert {tensor["dtype"] for tensor in interpreter.get_tensor_details()} == {np.int8, np.int32}
    assert (into["dtype"], tuple(into["shape"]), into["quantization"]) == (
        np.int8,
        (1, 24),
        (pytest.approx(0.03), -128),
    )
    assert (out_of["dtype"], tuple(out_of["shape"]), out_of["quantization"]) == (np.int8, (1, 5), (1 / 256, -128))


def test_units_without_weights_do_no_harm(mlp: Mlp, embeddings: FloatArray, tmp_path: Path) -> None:
    """A unit that learnt nothing but its bias has a range of zero, and the others stay exact."""
    first = mlp.weights[0].copy()
    first[:, ::2] = 0.0
    partly = Mlp((first, *mlp.weights[1:]), mlp.biases)

    write_mlp(partly, READS, embeddings, tmp_path / "mlp.tflite")

    said = run_mlp(tmp_path / "mlp.tflite", READS, embeddings)
    assert np.abs(said - partly.likelihoods(embeddings)).mean() < 0.01


def test_the_same_network_gives_the_same_file(mlp: Mlp, embeddings: FloatArray, tmp_path: Path) -> None:
    """To the last byte: the card names the file by its hash."""
    for name in ("one", "other"):
        write_mlp(mlp, READS, embeddings, tmp_path / name)

    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_after_a_float_embedding_the_steps_span_what_it_said(mlp: Mlp, embeddings: FloatArray, tmp_path: Path) -> None:
    """An int8 embedding is read in its own steps; a float one in 256 that reach from its least to its largest value."""
    shifted = embeddings - np.float32(2.0)
    reads = input_of(TensorCard(shape=(1, 24), dtype="float32"), shifted)

    assert input_of(READS, embeddings) is READS
    assert dequantize(np.array([-128, 127], np.int8), reads).tolist() == pytest.approx(
        [shifted.min(), shifted.max()], abs=reads.scale
    )
    write_mlp(mlp, reads, shifted, tmp_path / "mlp.tflite")
    assert np.abs(run_mlp(tmp_path / "mlp.tflite", reads, shifted) - mlp.likelihoods(shifted)).mean() < 0.01
