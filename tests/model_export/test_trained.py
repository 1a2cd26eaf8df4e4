"""The folder of trained networks."""

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy import special

from agent.errors import UsageError
from agent.values import FloatArray
from model_export import networks
from model_export.calibration import Rescaling
from model_export.clips import LABELS
from model_export.trained import (
    TRAINING_NAME,
    load_calibrated,
    load_networks,
    losses_before,
    training_record,
    write_networks,
)


@pytest.mark.parametrize(
    "asked", [{"clips": 30}, {"clips": 29, "speed": 1}, {"recipe": {"epochs": 12}}], ids=["value", "key", "nested"]
)
def test_what_was_trained_otherwise_does_not_count(trained: Path, asked: Mapping[str, object]) -> None:
    """Only networks that came about just as is asked for are gone on from."""
    assert losses_before(trained, asked) == []
    assert len(losses_before(trained, {"clips": 29})) == 1


def test_networks_without_a_record_do_not_count(trained: Path, tmp_path: Path) -> None:
    """Where writing was cut short, nobody knows whether both are of the same run."""

    class Full:
        def save(self, file: Path) -> None:
            raise OSError(28, "No space left on device", str(file))

    work = shutil.copytree(trained, tmp_path / "work")
    embedding, _ = load_networks(work)

    with pytest.raises(OSError, match=r"classifier\.keras"):
        write_networks((embedding, Full()), training_record(work), work)

    assert not (work / TRAINING_NAME).exists()
    assert losses_before(work, {}) == []


def test_what_is_shipped_is_calibrated_and_what_was_trained_is_not(trained: Path, tmp_path: Path) -> None:
    """The numbers beside the networks are folded in on the way to int8; without them nothing changes."""
    work = shutil.copytree(trained, tmp_path / "work")
    embeddings = np.random.default_rng(0).uniform(0.0, 2.0, (5, 240)).astype(np.float32)
    classifier = load_networks(work)[1]
    assert_says_the_same(load_calibrated(work)[1], classifier, embeddings)

    Rescaling("sigmoid", LABELS, (0.5,) * len(LABELS), (0.0,) * len(LABELS), (1, 2), 40).write(work)

    sums = networks.without_output(classifier)(embeddings).numpy()
    expected = special.expit(0.5 * sums)
    np.testing.assert_allclose(load_calibrated(work)[1](embeddings), expected, atol=1e-5)
    assert_says_the_same(load_networks(work)[1], classifier, embeddings)


def test_calibration_of_another_kind_of_network_is_refused(trained: Path, tmp_path: Path) -> None:
    """A temperature of softmax means nothing to sigmoids."""
    work = shutil.copytree(trained, tmp_path / "work")
    Rescaling("softmax", LABELS, (0.5,) * len(LABELS), (0.0,) * len(LABELS), (1, 2), 40).write(work)

    with pytest.raises(UsageError, match=r"--results: softmax over 11 labels, expected .* sigmoid over 11"):
        load_calibrated(work)


def assert_says_the_same(one: keras.Model, other: keras.Model, embeddings: FloatArray) -> None:
    np.testing.assert_array_equal(one(embeddings), other(embeddings))


@pytest.mark.parametrize(("generations", "message"), [(2, "has 1 generations, expected 2"), (None, "has no training")])
def test_what_was_cut_short_is_not_shipped(
    trained: Path, tmp_path: Path, generations: int | None, message: str
) -> None:
    """The card would say that all generations were trained."""
    work = shutil.copytree(trained, tmp_path / "work")
    record, both = training_record(work), load_networks(work)
    (work / TRAINING_NAME).unlink()
    if generations:
        record["recipe"]["generations"] = generations
        write_networks(both, record, work)

    with pytest.raises(UsageError, match=f"{work}: {message}"):
        load_calibrated(work)


@pytest.mark.parametrize(
    ("name", "message"),
    [("training.json", "not JSON"), ("embedding.keras", "missing or damaged"), ("classifier.keras", "missing or dam")],
)
def test_a_file_that_was_cut_is_named(trained: Path, tmp_path: Path, name: str, message: str) -> None:
    """As a copy onto a full disk leaves it; the message says what writes it."""
    work = shutil.copytree(trained, tmp_path / "work")
    content = (work / name).read_bytes()
    (work / name).write_bytes(content[: len(content) // 2])

    with pytest.raises(UsageError, match=f"{work / name}: {message}.*, expected what `train` wrote"):
        load_calibrated(work)


def test_a_changed_byte_is_no_traceback(trained: Path, tmp_path: Path) -> None:
    """Wherever in the archive it is."""
    work = shutil.copytree(trained, tmp_path / "work")
    file = work / "classifier.keras"
    whole = file.read_bytes()
    for place in np.linspace(0, len(whole) - 1, 4).astype(int):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 8]) + whole[place + 1 :])
        with suppress(UsageError):
            load_networks(work)


@pytest.mark.parametrize("read", [training_record, load_networks])
def test_a_folder_without_networks_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    """The message says what writes them."""
    with pytest.raises(UsageError, match=f"{tmp_path}: has no training.json, expected what `train` wrote"):
        read(tmp_path)
