"""One's own classes: a new MLP on the frozen embedding of a model that is there already, without TensorFlow.

In: clips of one's own classes, and their embeddings. Out: a cross-validation, a learning curve, and a model folder that
the agent runs.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agent.errors import UsageError
from agent.model_card import EventNumbers, ModelFolder
from agent.values import FloatArray
from model_export import mlp
from model_export.clips import BACKGROUND, Clip, hold_out_fold
from model_export.evaluate import Rate, rate
from model_export.metadata import Metadata
from model_export.mlp import Mlp
from model_export.package import AUTHOR, describe_classifier, network_card, write_model_json
from model_export.tflite_mlp import input_of, run_mlp, write_mlp
from model_export.verify import Agreement, check_int8

VERSION = "1"
CLASSIFIER_NAME = "classifier.tflite"  # where the base has none
CURVE_SIZES = (1, 2, 5, 10, 20, 50, 100)  # recordings of each class in training
N_DRAWS = 3  # of those recordings

Embeddings = Mapping[Clip, FloatArray]  # of each clip, float32 (n_windows, d)


@dataclass(frozen=True, slots=True)
class HeadFigures:
    """What cross-validation found.

    Attributes:
        labels: the order of the confusions.
        n_folds: how many times another part of the recordings was tested.
        accuracy: over all clips.
        recall: for each label.
        confusion: (n_labels, n_labels) clips, true label by predicted label.
        curve: accuracy by the recordings of each class in training, a class that has fewer being there with all of
            them; the last is with all recordings. Empty where it was not asked for.
    """

    labels: tuple[str, ...]
    n_folds: int
    accuracy: Rate
    recall: dict[str, Rate]
    confusion: list[list[float]]
    curve: dict[int, Rate]


def labels_of(clips: Sequence[Clip]) -> tuple[str, ...]:
    """The classes by name, `background` last: the order of the network's output."""
    return tuple(sorted({clip.label for clip in clips}, key=lambda label: (label == BACKGROUND, label)))


def train_head(
    clips: Sequence[Clip], embeddings: Embeddings, *, seed: int, labels: tuple[str, ...] | None = None
) -> Mlp:
    """Train on each label as often as on the others, and within it on each recording.

    Args:
        clips: to train on.
        embeddings: of at least these clips.
        seed: the same gives the same network.
        labels: the order of the output; those of the clips without it.
    """
    labels = labels or labels_of(clips)
    counts = [len(embeddings[clip]) for clip in clips]
    n_windows: dict[str, int] = {}  # by recording
    for clip, count in zip(clips, counts, strict=True):
        n_windows[clip.recording] = n_windows.get(clip.recording, 0) + count
    n_recordings = {label: len(recordings_of(clips, label)) for label in labels_of(clips)}
    weights = [1.0 / (n_recordings[clip.label] * n_windows[clip.recording]) for clip in clips]
    return mlp.train(
        np.concatenate([embeddings[clip] for clip in clips]),
        np.repeat([labels.index(clip.label) for clip in clips], counts),
        np.repeat(weights, counts),
        n_labels=len(labels),
        seed=seed,
    )


def recordings_of(clips: Sequence[Clip], label: str) -> list[str]:
    """The recordings of a class, by name."""
    return sorted({clip.recording for clip in clips if clip.label == label})


def cross_validate(clips: Sequence[Clip], embeddings: Embeddings, *, seed: int, with_curve: bool) -> HeadFigures:
    """Train without one fold and test on it, for each fold.

    Args:
        clips: of all labels, with two or more recordings of each.
        embeddings: of these clips.
        seed: of the training, and of the recordings that are drawn for the curve.
        with_curve: whether to train with fewer recordings, too.
    """
    labels = labels_of(clips)
    predicted = _predicted(clips, embeddings, seed=seed)
    places = [(labels.index(clip.label), labels.index(label)) for clip, label in predicted]
    confusion = np.zeros((len(labels), len(labels)))
    np.add.at(confusion, tuple(zip(*places, strict=True)), 1.0)
    return HeadFigures(
        labels=labels,
        n_folds=len({clip.fold for clip in clips}),
        accuracy=_rate(predicted),
        recall={label: _rate([pair for pair in predicted if pair[0].label == label]) for label in labels},
        confusion=confusion.tolist(),
        curve=_learning_curve(clips, embeddings, seed=seed) if with_curve else {},
    )


def _learning_curve(clips: Sequence[Clip], embeddings: Embeddings, *, seed: int) -> dict[int, Rate]:
    """Accuracy by recordings of each class; for each size and fold, other recordings are drawn `N_DRAWS` times."""
    trained = [hold_out_fold(clips, fold)[0] for fold in {clip.fold for clip in clips}]
    most = max(len(recordings_of(some, label)) for some in trained for label in labels_of(clips))
    return {
        size: _rate(
            [
                pair
                for draw in range(N_DRAWS)
                for pair in _predicted(clips, embeddings, seed=seed + draw, n_recordings=size)
            ],
            n_runs=N_DRAWS,
        )
        for size in [*(size for size in CURVE_SIZES if size < most), most]
    }


def _predicted(
    clips: Sequence[Clip], embeddings: Embeddings, *, seed: int, n_recordings: int | None = None
) -> list[tuple[Clip, str]]:
    """What each clip was taken for by a network that had not heard its recording.

    Likelihoods are summed over the clip's windows, the largest sum wins, as `urbansound classify` judges.
    """
    labels = labels_of(clips)
    predicted = []
    for fold in sorted({clip.fold for clip in clips}):
        train, test = hold_out_fold(clips, fold)
        if n_recordings is not None:
            train = _drawn(train, n_recordings, np.random.default_rng([seed, fold]))
        head = train_head(train, embeddings, seed=seed)
        for clip in test:
            predicted.append((clip, labels[int(head.likelihoods(embeddings[clip]).sum(axis=0).argmax())]))
    return predicted


def _drawn(clips: Sequence[Clip], n_recordings: int, rng: np.random.Generator) -> list[Clip]:
    chosen = {
        name for label in labels_of(clips) for name in rng.permutation(recordings_of(clips, label))[:n_recordings]
    }
    return [clip for clip in clips if clip.recording in chosen]


def _rate(predicted: Sequence[tuple[Clip, str]], n_runs: int = 1) -> Rate:
    return rate(
        [clip.label == label for clip, label in predicted],
        np.full(len(predicted), 1.0 / n_runs),
        [clip.recording for clip, _ in predicted],
    )


def write_head(
    head: Mlp, base: ModelFolder, clips: Sequence[Clip], embeddings: Embeddings, out: Path
) -> tuple[ModelFolder, Agreement]:
    """Write a model folder: the base's embedding as it is, the new classifier in int8, `model.json`.

    Args:
        head: trained on the clips.
        base: whose embedding it stands on. Its groups and event numbers stay, for labels that it knows; a label that
            it does not tell gets the thresholds of its default.
        clips: what the activations are calibrated on, and int8 is held against float on.
        embeddings: of the clips.
        out: another folder than the base's.

    Raises:
        ModelError: the int8 network does not say what the trained one says.
        UsageError: the folder cannot be written.
    """
    card, labels = base.card, labels_of(clips)
    classifier = out / (card.classifier.file if card.classifier else CLASSIFIER_NAME)
    rows = np.concatenate([embeddings[clip] for clip in clips])
    reads = input_of(card.embedding.output, rows)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file in base.card.embedding_files:
            shutil.copyfile(base.path / file.file, out / file.file)
        write_mlp(head, reads, rows, classifier)
        agreement = check_int8(classifier, head.likelihoods(rows), run_mlp(classifier, reads, rows))
        name = f"{card.name}-head"
        description = f"MLP 512-128 on the embedding of {card.name} {card.version}; the classes {', '.join(labels)}"
        said = Metadata(name, description, VERSION, AUTHOR, card.licence, labels)
        describe_classifier(classifier, said)
        known = {label: _inherited(numbers) for label, numbers in card.events.classes.items() if label in labels}
        changes = {
            "name": name,
            "version": VERSION,
            "description": description,
            "labels": labels,
            "background_label": BACKGROUND if BACKGROUND in labels else None,
            "groups": {label: group for label, group in card.groups.items() if label in labels},
            "classifier": network_card(classifier),
            "events": card.events.model_copy(update={"classes": known}),
        }
        return write_model_json(out, card.model_copy(update=changes)), agreement
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}; expected a folder to write to") from error


def _inherited(numbers: EventNumbers) -> EventNumbers:
    """What a label keeps of its event numbers: all but its silence, which was chosen for another classifier."""
    if numbers.on != 1.0:
        return numbers
    return EventNumbers(**numbers.model_dump(exclude_unset=True, exclude={"on", "off"}))
