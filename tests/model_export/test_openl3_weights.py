"""Weights of OpenL3 from a file: every form that is known, and a clear word about every other."""

import gzip
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from agent.errors import ModelError
from model_export import openl3, openl3_weights
from model_export.openl3_weights import Layer, read_weights
from tests.model_export.openl3_files import Change, named, random_layers, write_h5

SPECTROGRAM = ("melspectrogram_1", [np.zeros((2048, 1, 1, 5)), np.zeros((2048, 1, 1, 5)), np.zeros((5, 3))])
AFTER_THE_LAST = ("batch_normalization_99", [np.ones(8, np.float32)] * 4)


@pytest.fixture
def few_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same layers with few filters."""
    monkeypatch.setattr(openl3, "FILTERS", (2, 4, 4, 8))


@pytest.fixture
def layers(few_filters: None) -> list[Layer]:
    return random_layers()


def assert_same(actual: list[Layer], expected: list[Layer]) -> None:
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert [array.dtype for array in one] == [np.dtype(np.float32)] * len(other)
        for array, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(array, same)


def test_a_file_of_the_published_size_is_read_layer_by_layer(tmp_path: Path) -> None:
    """All 48 arrays come back, each in its place, although the names of the layers say nothing of their order."""
    expected = random_layers()

    actual = read_weights(write_h5(tmp_path / "weights.h5", named(expected)))

    assert sum(map(len, actual)) == 48
    assert sum(array.size for layer in actual for array in layer) == 4_689_860
    assert_same(actual, expected)


@pytest.mark.parametrize("group", ["/", "model_weights"], ids=["weights", "whole model"])
@pytest.mark.parametrize("kind", [bytes, str])
@pytest.mark.parametrize("has_spectrogram", [False, True], ids=["v0_4_0", "v0_2_0"])
@pytest.mark.parametrize("is_checkpoint", [False, True], ids=["embedding", "checkpoint"])
@pytest.mark.parametrize("is_packed", [False, True], ids=["h5", "gz"])
def test_every_known_form_is_read(
    layers: list[Layer],
    tmp_path: Path,
    *,
    group: str,
    kind: type[Any],
    has_spectrogram: bool,
    is_checkpoint: bool,
    is_packed: bool,
) -> None:
    """The spectrogram's layer before and the normalization after the network are passed over, whatever is around."""
    found = named(layers)
    found = [*([SPECTROGRAM] if has_spectrogram else []), *found, *([AFTER_THE_LAST] if is_checkpoint else [])]
    file = write_h5(tmp_path / "weights.h5", found, group=group, kind=kind)
    if is_packed:
        file.write_bytes(gzip.compress(file.read_bytes()))

    assert_same(read_weights(file), layers)


def place(layers: list[tuple[str, list[Any]]], number: int) -> list[Any]:
    """The arrays of the n-th layer that has any, from 1."""
    return [arrays for _, arrays in layers if arrays][number - 1]


def set_array(layers: list[tuple[str, list[Any]]], number: int, index: int, value: Any) -> None:  # noqa: ANN401  any
    place(layers, number)[index] = value


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(
            lambda layers: place(layers, 3).pop(), "has arrays of 2, 2, 2, expected 2, 2, 2, 2", id="array missing"
        ),
        pytest.param(
            lambda layers: set_array(layers, 2, 0, np.zeros((3, 3, 3, 2))),
            "layer 2, conv2d_12, has arrays of 3x3x3x2, 2, expected 3x3x1x2, 2",
            id="the image network",
        ),
        pytest.param(
            lambda layers: layers.insert(2, layers.pop(-2)),
            "audio_embedding_layer, has arrays of 3x3x8x8, 8, expected",
            id="another order",
        ),
        pytest.param(lambda layers: layers.__delitem__(slice(-2, None)), "layers with weights: 15, expected", id="15"),
        pytest.param(
            lambda layers: layers.append(("dense_1", [np.zeros((8, 2)), np.zeros(2)])),
            "layers with weights: 17, expected the 16 of OpenL3's audio network",
            id="17",
        ),
        pytest.param(lambda layers: layers.clear(), "layers with weights: 0, expected the 16", id="none"),
        pytest.param(
            lambda layers: set_array(layers, 2, 1, np.array([np.nan, 0.0])), "holds what is no number", id="not finite"
        ),
        pytest.param(
            lambda layers: set_array(layers, 2, 1, np.array([1, 2])), "holds int64, expected floating", id="integers"
        ),
        pytest.param(
            lambda layers: set_array(layers, 2, 1, h5py.Empty("f4")), "3x3x1x2, one number, exp", id="no data"
        ),
        pytest.param(
            lambda layers: set_array(layers, 3, 3, np.array([-1.0, 1.0])),
            "has a variance of -1.0, expected",
            id="order",
        ),
    ],
)
def test_another_network_is_refused(layers: list[Layer], tmp_path: Path, change: Change, expected: str) -> None:
    """The message has the file, the layer, what it has and what OpenL3's has."""
    found = named(layers)
    change(found)
    file = write_h5(tmp_path / "weights.h5", found)

    with pytest.raises(ModelError) as caught:
        read_weights(file)

    assert str(caught.value).startswith(f"weights file {file}: ")
    assert expected in str(caught.value)


def test_a_file_of_another_kind_is_refused(layers: list[Layer], tmp_path: Path) -> None:
    """No file, no HDF5, half a gzip, an HDF5 that Keras did not write, one whose names lead nowhere: each is told."""
    file = write_h5(tmp_path / "weights.h5", named(layers))
    whole = file.read_bytes()

    def problem(content: bytes | None) -> str:
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ModelError) as caught:
            read_weights(file)
        assert "\n" not in str(caught.value)
        return str(caught.value).removeprefix(f"weights file {file}: ")

    assert problem(None) == "cannot be read (No such file or directory)"
    assert problem(b"").startswith("is not HDF5, or damaged (")
    assert problem(b"<!DOCTYPE html>").startswith("is not HDF5, or damaged (")
    assert problem(gzip.compress(whole)[:-2000]).startswith("damaged gzip (")
    assert problem(b"\x1f\x8b" + whole).startswith("damaged gzip (")
    file.write_bytes(whole)
    with h5py.File(file, "r+") as opened:
        del opened["audio_embedding_layer"]
    assert problem(file.read_bytes()) == "/ names audio_embedding_layer, expected it in there"
    with h5py.File(file, "w") as opened:
        opened["numbers"] = np.zeros(3)
    assert problem(file.read_bytes()) == "/ has no layer_names, expected weights that Keras saved as HDF5"


def test_a_damaged_file_never_crashes(layers: list[Layer], tmp_path: Path) -> None:
    """Cut anywhere, or with any byte changed, it is read or refused."""
    file = write_h5(tmp_path / "weights.h5", named(layers))
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for trial in range(300):
        content = bytearray(whole)
        if trial % 3:
            for index in rng.integers(0, len(whole), 5 * trial % 40 + 1):
                content[index] ^= 1 << int(rng.integers(8))
        else:
            del content[int(rng.integers(len(whole))) :]
        file.write_bytes(content)
        try:
            read_weights(file)
        except ModelError:
            refused += 1
    assert refused > 100


def test_a_file_that_unpacks_to_more_than_any_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small file that would fill the memory is not unpacked to its end."""
    monkeypatch.setattr(openl3_weights, "MAX_BYTES", 100_000)
    file = tmp_path / "weights.h5.gz"
    file.write_bytes(gzip.compress(bytes(10_000_000)))

    with pytest.raises(ModelError, match="has more than 100000 bytes"):
        read_weights(file)
