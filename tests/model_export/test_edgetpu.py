"""Promises of `model_export.edgetpu`: what Coral's rules refuse is found, and what they allow is not."""

from collections.abc import Callable
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from agent.errors import ModelError
from agent.model_card import DEFAULT_MODEL
from model_export.cli import main
from model_export.edgetpu import as_text, operators_of
from model_export.streaming import NAMES
from tests.test_inference import YAMNET, network_of

FILES = sorted(DEFAULT_MODEL.glob("*.tflite"))
STREAMING = DEFAULT_MODEL / "embedding_streaming.tflite"
CLASSIFIER = DEFAULT_MODEL / "classifier.tflite"

Change = Callable[[schema.ModelT], object]


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[Path, Change], Path]:
    """A copy of a network, changed in memory."""

    def made(file: Path, change: Change) -> Path:
        model = schema.ModelT.InitFromPackedBuf(file.read_bytes())
        change(model)
        builder = flatbuffers.Builder(0)
        builder.Finish(model.Pack(builder), b"TFL3")
        (tmp_path / "changed.tflite").write_bytes(bytes(builder.Output()))
        return tmp_path / "changed.tflite"

    return made


def first(model: schema.ModelT, name: str) -> schema.OperatorT:
    """The first operator of a kind."""
    kinds = [NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes]
    return next(one for one in model.subgraphs[0].operators if kinds[one.opcodeIndex] == name)


def tensor(model: schema.ModelT, name: str, index: int) -> schema.TensorT:
    """An input of the first operator of a kind."""
    return model.subgraphs[0].tensors[first(model, name).inputs[index]]


def put(model: schema.ModelT, name: str, index: int, values: list[int]) -> None:
    """Other integers into such an input."""
    content = schema.BufferT()
    content.data = np.frombuffer(np.asarray(values, np.int32).tobytes(), np.uint8)
    model.buffers.append(content)
    tensor(model, name, index).buffer = len(model.buffers) - 1


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_networks_of_the_default_model_are_within_the_rules(file: Path) -> None:
    """Both forms and the classifier: int8 throughout, listed operators, constant lengths."""
    assert [operator for operator in operators_of(file) if operator.problem] == []


@pytest.mark.parametrize(
    ("file", "change", "name", "problem"),
    [
        (
            STREAMING,
            lambda model: setattr(first(model, "MAX_POOL_2D").builtinOptions, "fusedActivationFunction", 1),
            "MAX_POOL_2D",
            "has an activation in it, expected none",
        ),
        (
            STREAMING,
            lambda model: setattr(first(model, "CONV_2D").builtinOptions, "dilationHFactor", 2),
            "CONV_2D",
            "dilations (2, 1), expected the same along both axes",
        ),
        (
            STREAMING,
            lambda model: put(model, "STRIDED_SLICE", 3, [1, 2, 1, 1]),
            "STRIDED_SLICE",
            "strides [1, 2, 1, 1], expected 1",
        ),
        (
            STREAMING,
            lambda model: put(model, "REDUCE_MAX", 1, [-4]),
            "REDUCE_MAX",
            "reduces the batch dimension",
        ),
        (
            STREAMING,
            lambda model: put(model, "PAD", 1, [0, 1, 0, 0, 1, 1, 0, 0]),
            "PAD",
            "pads the batch dimension",
        ),
        (
            STREAMING,
            lambda model: setattr(tensor(model, "CONV_2D", 1), "buffer", 0),
            "CONV_2D",
            "input 1 is computed, expected a constant",
        ),
        (
            STREAMING,
            lambda model: setattr(tensor(model, "MAX_POOL_2D", 0), "shapeSignature", [1, -1, 62, 32]),
            "MAX_POOL_2D",
            "has a length that is not known before it runs",
        ),
        (
            STREAMING,
            lambda model: setattr(tensor(model, "MAX_POOL_2D", 0), "shape", [2, 8, 62, 32]),
            "MAX_POOL_2D",
            "is (2, 8, 62, 32), expected only the last 3 dimensions above 1",
        ),
        (
            STREAMING,
            lambda model: setattr(tensor(model, "MAX_POOL_2D", 0), "type", schema.TensorType.FLOAT32),
            "MAX_POOL_2D",
            "is float32, expected int8 or uint8",
        ),
        (
            CLASSIFIER,
            lambda model: setattr(first(model, "FULLY_CONNECTED").builtinOptions, "weightsFormat", 1),
            "FULLY_CONNECTED",
            "weights in a format that is not the default one",
        ),
        (
            CLASSIFIER,
            lambda model: setattr(model.operatorCodes[-1], "builtinCode", schema.BuiltinOperator.GATHER),
            "GATHER",
            "is not supported",
        ),
    ],
)
def test_what_the_rules_refuse_is_found(
    changed: Callable[[Path, Change], Path], file: Path, change: Change, name: str, problem: str
) -> None:
    """The operator and the reason are named."""
    problems = [(one.name, one.problem) for one in operators_of(changed(file, change)) if one.problem is not None]

    assert any(found == name and problem in why for found, why in problems), problems


def test_from_the_first_that_does_not_map_all_is_on_the_cpu(changed: Callable[[Path, Change], Path]) -> None:
    """What is before it maps; what is after it would, and does not."""
    file = changed(
        CLASSIFIER, lambda model: setattr(first(model, "FULLY_CONNECTED").builtinOptions, "weightsFormat", 1)
    )

    lines = as_text(file, operators_of(file)).splitlines()

    assert "0 of 4 operators would map" in lines[0]
    assert lines[1].endswith("operator 0, FULLY_CONNECTED: weights in a format that is not the default one")
    assert lines[2].endswith("operators 1 to 2, FULLY_CONNECTED: would, but comes after one that does not: on the CPU")


def test_the_exit_code_says_whether_all_would_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0, or 1; 78 for what is no network, or not all of it, and for what is not there."""
    (tmp_path / "float.tflite").write_bytes(network_of([(1, 4), (1, 4)], is_float=True))
    (tmp_path / "text.tflite").write_bytes(b"not a network")
    (tmp_path / "cut.tflite").write_bytes(STREAMING.read_bytes()[:1_000])
    (tmp_path / "zeros.tflite").write_bytes(STREAMING.read_bytes()[:8].ljust(1_000, b"\0"))

    assert main(["edgetpu-check", str(STREAMING)]) == 0
    assert "35 of 35 operators would map" in capsys.readouterr().out
    assert main(["edgetpu-check", str(tmp_path / "float.tflite")]) == 1
    assert "LOGISTIC: tensor input is float32, expected int8 or uint8" in capsys.readouterr().out
    for name in ("text.tflite", "cut.tflite", "zeros.tflite", "missing.tflite"):
        assert main(["edgetpu-check", str(tmp_path / name)]) == ModelError.exit_code
        assert name in capsys.readouterr().err


@pytest.mark.skipif(not YAMNET.is_file(), reason=f"no {YAMNET}")
def test_a_published_float_network_would_not_map() -> None:
    """YAMNet as published has its front end inside, in float32."""
    problems = {operator.name: operator.problem for operator in operators_of(YAMNET)}

    assert problems["RFFT2D"] == "is not supported"
    assert "float32" in str(problems["CONV_2D"])
