"""Trained networks: the folder that `train` writes, and what stands in it.

In: a folder with `embedding.keras`, `classifier.keras`, `training.json` and, where `calibrate` was run,
`calibration.json`. Out: the networks, and how they came about.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from agent.errors import UsageError
from model_export import networks
from model_export.calibration import Rescaling, read_rescaling
from model_export.files import UNREADABLE, whole

TRAINING_NAME = "training.json"
NETWORKS = (networks.EMBEDDING, networks.CLASSIFIER)


def write_networks(trained: tuple[keras.Model, keras.Model], record: Mapping[str, object], folder: Path) -> None:
    """Write the embedding network, the classifier, and how they came about.

    The record is there only while both networks are: cut short, it leaves a folder without one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TRAINING_NAME).unlink(missing_ok=True)
    for name, network in zip(NETWORKS, trained, strict=True):
        network.save(folder / f"{name}.keras")
    with whole(folder / TRAINING_NAME) as file:
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def load_networks(folder: Path) -> tuple[keras.Model, keras.Model]:
    """The two networks that `train` saved.

    Raises:
        UsageError: there are none, or they are damaged.
    """
    training_record(folder)  # says what is not there
    embedding, classifier = (_network(folder / f"{name}.keras") for name in NETWORKS)
    return embedding, classifier


def _network(file: Path) -> keras.Model:
    try:
        return keras.models.load_model(file, compile=False)
    except UNREADABLE as error:
        raise UsageError(f"{file}: missing or damaged ({error}), expected what `train` wrote") from error


def training_record(folder: Path) -> dict[str, Any]:
    """What `train` wrote about itself: the recipe, the data, how it went.

    Raises:
        UsageError: it is not there, or damaged.
    """
    file = folder / TRAINING_NAME
    if not file.is_file():
        raise UsageError(f"{folder}: has no {TRAINING_NAME}, expected what `train` wrote")
    try:
        record: dict[str, Any] = json.loads(file.read_bytes())
    except ValueError as error:
        raise UsageError(f"{file}: not JSON ({error}), expected what `train` wrote") from error
    return record


def losses_before(folder: Path, asked: Mapping[str, object]) -> list[list[float]]:
    """The losses of each generation that stands in a folder and came about as is asked for; none, if otherwise.

    Args:
        folder: what `train` may have written.
        asked: what the record has to say.
    """
    if not (folder / TRAINING_NAME).is_file():
        return []
    record = training_record(folder)
    as_recorded = json.loads(json.dumps(asked))
    if any(record.get(key) != value for key, value in as_recorded.items()):
        return []
    losses: list[list[float]] = record["losses"]
    return losses


def load_calibrated(folder: Path) -> tuple[keras.Model, keras.Model]:
    """The two networks with their calibration folded in, where `calibrate` wrote one: what is shipped.

    Raises:
        UsageError: the training was cut short, or its calibration is of another kind of network.
    """
    record = training_record(folder)
    n_trained, n_asked = len(record["losses"]), record["recipe"]["generations"]
    if n_trained != n_asked:
        raise UsageError(f"--networks {folder}: has {n_trained} generations, expected {n_asked}: begin `train` again")
    embedding, classifier = load_networks(folder)
    rescaling = read_rescaling(folder)
    return embedding, calibrated(classifier, rescaling) if rescaling else classifier


def calibrated(classifier: keras.Model, rescaling: Rescaling) -> keras.Model:
    """A classifier with its calibration folded in.

    Raises:
        UsageError: the calibration is of another kind of network.
    """
    output, n_labels = networks.output_of(classifier), classifier.output_shape[-1]
    if (rescaling.output, len(rescaling.labels)) != (output, n_labels):
        raise UsageError(
            f"--results: {rescaling.output} over {len(rescaling.labels)} labels, expected what the networks have, "
            f"{output} over {n_labels}"
        )
    return networks.rescaled(classifier, rescaling.scale, rescaling.bias)
