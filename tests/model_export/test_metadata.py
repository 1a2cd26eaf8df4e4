"""What the TFLite files say about themselves, and that they compute what they did."""

import ctypes
import json
import shutil
import subprocess
import venv
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from agent.errors import ModelError
from agent.model_card import load_model_folder, sha256_of
from model_export.clips import LABELS
from model_export.features import FRONT_END
from model_export.metadata import Metadata, TensorNote, check_metadata, read_metadata, write_metadata
from model_export.package import DESCRIPTION, LICENCE, NAME, VERSION, write_card

FILES = ("embedding.tflite", "classifier.tflite")
SAID = Metadata("some-model", "hears", "3", "someone", "CC0-1.0", ("drum", "grosse caisse", "太鼓"))
READS = [TensorNote("sound", "of a street", sample_rate_hz=8_000)]
ANSWERS = [TensorNote("scores", "of the drums")]

TFLITE_SUPPORT = "tflite-support==0.4.4"
DISPLAY = """
import json, sys
from tflite_support import metadata

displayer = metadata.MetadataDisplayer.with_model_file(sys.argv[1])
names = displayer.get_packed_associated_file_list()
files = {name: displayer.get_associated_file_buffer(name).decode() for name in names}
print(json.dumps({"metadata": json.loads(displayer.get_metadata_json()), "files": files}))
"""


def outputs_of(file: Path, inputs: np.ndarray) -> np.ndarray:
    """What TFLite answers to int8 inputs, one by one."""
    interpreter = Interpreter(model_path=str(file), num_threads=1)
    interpreter.allocate_tensors()
    outputs = []
    for values in inputs:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values)
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    return np.stack(outputs)


@pytest.fixture
def model(packaged: Path, tmp_path: Path) -> Path:
    """A packaged folder that a test may change."""
    return shutil.copytree(packaged, tmp_path / "model")


@pytest.mark.parametrize("name", FILES)
def test_a_network_computes_the_same_with_metadata(quantized: Path, packaged: Path, name: str) -> None:
    """The interpreter loads the file, and each output is the same to the last bit."""
    shape = Interpreter(model_path=str(quantized / name)).get_input_details()[0]["shape"]
    inputs = np.random.default_rng(0).integers(-128, 128, (20, *shape), dtype=np.int8)

    bare, described = outputs_of(quantized / name, inputs), outputs_of(packaged / name, inputs)

    assert len(np.unique(bare)) > 1
    np.testing.assert_array_equal(described, bare)


def test_packaging_again_changes_no_byte(model: Path) -> None:
    """Files that carry metadata already get the same once more, not a second time."""
    card = load_model_folder(model).card
    before = {file.name: sha256_of(file) for file in model.iterdir()}

    write_card(
        model,
        onset_response_s=card.events.onset_response_s,
        offset_response_s=card.events.offset_response_s,
        trained_on={"esc10": [1, 2], "us8k": [1, 2]},
    )

    assert {file.name: sha256_of(file) for file in model.iterdir()} == before


def test_a_packaged_model_says_what_it_is(packaged: Path) -> None:
    """Both files name the model, its version and its licence; the classifier has the labels."""
    embedding, classifier = (read_metadata(packaged / name) for name in FILES)

    for metadata in (embedding, classifier):
        assert (metadata.name, metadata.version, metadata.licence) == (NAME, VERSION, LICENCE)
        assert metadata.description.startswith(DESCRIPTION)
    assert embedding.labels == ()
    assert classifier.labels == LABELS


def test_any_tool_reads_the_labels(packaged: Path) -> None:
    """The classifier's file is a ZIP archive as well: one label a line, in the order of the output."""
    with zipfile.ZipFile(packaged / "classifier.tflite") as archive:
        assert archive.namelist() == ["labels.txt"]
        assert archive.read("labels.txt").decode().splitlines() == list(LABELS)
        assert archive.getinfo("labels.txt").compress_type == zipfile.ZIP_STORED  # readers in C++ know no other


def test_what_is_written_is_read(model: Path) -> None:
    """Text of any language comes back; new metadata take the place of the old, labels included."""
    file = model / "classifier.tflite"

    write_metadata(file, SAID, reads=READS, answers=ANSWERS)
    assert read_metadata(file) == SAID
    write_metadata(file, replace(SAID, labels=()), reads=READS, answers=ANSWERS)
    assert read_metadata(file) == replace(SAID, labels=())
    assert not zipfile.is_zipfile(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "other"}, f"name = 'other', expected '{NAME}'"),
        ({"version": "0"}, f"version = '0', expected '{VERSION}'"),
        ({"licence": "MIT"}, "licence = 'MIT', expected 'CC-BY-NC-3.0"),
        ({"labels": LABELS[::-1]}, "labels = .'background'"),
        ({"labels": ()}, r"labels = \(\)"),
    ],
)
def test_metadata_that_disagree_with_the_card_are_named(model: Path, change: dict[str, Any], message: str) -> None:
    """A file of another model, version or licence, or with other labels, does not pass."""
    folder = load_model_folder(model)
    check_metadata(folder)

    said = replace(read_metadata(folder.classifier_file), **change)
    write_metadata(folder.classifier_file, said, reads=READS, answers=ANSWERS)

    with pytest.raises(ModelError, match=rf"classifier\.tflite: its metadata says {message}"):
        check_metadata(folder)


def test_a_file_without_metadata_is_named(quantized: Path) -> None:
    """Who forgot to package is told so."""
    with pytest.raises(ModelError, match=r"embedding\.tflite: carries no TFLite metadata; `urbansound-model package`"):
        read_metadata(quantized / "embedding.tflite")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"", "starts with b'', expected a TFLite file"),
        (b"RIFF....WAVE", "starts with b'RIFF....'"),
    ],
)
def test_what_is_not_tflite_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    """A file that is missing or something else is named, and left as it is."""
    file = tmp_path / "x.tflite"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ModelError, match=f"model file {file}: {message}"):
        write_metadata(file, SAID, reads=READS, answers=ANSWERS)
    assert not file.exists() or file.read_bytes() == content


@pytest.fixture
def foreign_python(tmp_path: Path) -> str:
    """The Python of an environment with tflite-support: beside TensorFlow it would want another protobuf."""
    try:
        ctypes.CDLL("libusb-1.0.so.0")
    except OSError as error:
        pytest.skip(f"tflite-support needs the Debian package libusb-1.0-0: {error}")
    try:
        venv.create(tmp_path / "env", with_pip=True)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no environment with pip can be made: {error}")
    python = str(tmp_path / "env" / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--retries=1", TFLITE_SUPPORT]
    installed = subprocess.run(pip, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"{TFLITE_SUPPORT} cannot be installed: {installed.stderr.strip().splitlines()[-1:]}")
    return python


def displayed(python: str, file: Path) -> dict[str, Any]:
    """What tflite-support's displayer shows: the metadata, and the associated files by name."""
    shown = subprocess.run([python, "-c", DISPLAY, str(file)], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    content: dict[str, Any] = json.loads(shown.stdout)
    return content


@pytest.mark.slow
def test_tflite_support_reads_the_files(packaged: Path, foreign_python: str) -> None:
    """The library that defines the format finds name, licence, labels and sample rate where it looks for them."""
    embedding, classifier = (displayed(foreign_python, packaged / name) for name in FILES)

    for shown in (embedding, classifier):
        said = shown["metadata"]
        assert (said["name"], said["version"], said["license"]) == (NAME, VERSION, LICENCE)
    ((reads,), (answers,)) = (
        embedding["metadata"]["subgraph_metadata"][0]["input_tensor_metadata"],
        classifier["metadata"]["subgraph_metadata"][0]["output_tensor_metadata"],
    )
    assert reads["content"] == {
        "content_properties_type": "AudioProperties",
        "content_properties": {"sample_rate": FRONT_END.sample_rate_hz, "channels": 1},
    }
    assert "Not a waveform" in reads["description"]
    assert f"{FRONT_END.n_frames} frames x {FRONT_END.n_mels} mel bands" in reads["description"]
    assert answers["associated_files"][0]["type"] == "TENSOR_AXIS_LABELS"
    assert classifier["files"] == {answers["associated_files"][0]["name"]: "\n".join(LABELS) + "\n"}
    assert embedding["files"] == {}
