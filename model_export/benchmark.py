"""A model folder as it is, on folds that it has not heard, beside peers that learn from what it has heard.

In: the folder, UrbanSound8K, ESC-10 where there is one. Out: the same runs as a cross-validation's, for the same
tables. The model is run from file to likelihood by the agent's own loop. Peers need TensorFlow, the model does not.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agent.errors import UsageError
from agent.model_card import ModelFolder
from agent.values import FloatArray
from model_export.clips import BACKGROUND, Clip
from model_export.embeddings import Listener
from model_export.frozen import frozen_runs
from model_export.results import FoldPredictions, predictions_of

if TYPE_CHECKING:
    from model_export.published import PublishedNetwork

log = logging.getLogger(__name__)

SEED = 0  # nothing is drawn: the model is as it is


@dataclass(frozen=True, slots=True)
class Trial:
    """What is tested, and what may be learnt from.

    Attributes:
        train: clips of our labels of the folds that the model has heard: what peers learn from.
        tests: by fold of UrbanSound8K, clips of our labels that it has not heard.
        frozen_train: clips of ESC-10's ten classes, for the MLPs on frozen embeddings.
        frozen_tests: by fold of ESC-10, those that no embedding of ours has heard.
    """

    train: list[Clip]
    tests: dict[int, list[Clip]]
    frozen_train: list[Clip]
    frozen_tests: dict[int, list[Clip]]


def trial_of(
    model: ModelFolder, clips: Sequence[Clip], ten_classes: Sequence[Clip], folds: Sequence[int] | None
) -> Trial:
    """Part the clips into what the model has heard and what it is tested on.

    A fold is tested on each data set whose fold of that number the model has not heard; a recording that it has heard
    in another fold is left out.

    Args:
        model: whose card says what it was trained on.
        clips: of our labels, of UrbanSound8K and ESC-10.
        ten_classes: all of ESC-10 under its own names; none without.
        folds: to test on; None for all of UrbanSound8K that it has not heard.

    Raises:
        UsageError: a fold is not there, or the model has heard it.
    """
    present = {clip.fold for clip in clips if clip.dataset == "us8k"}
    trained_on = model.card.trained_on
    if trained_on is None:
        if folds is None:
            raise UsageError(f"--model {model.path}: does not say what it was trained on, expected --folds")
        log.warning(
            "benchmark.unknown_training model=%s: its card has no trained_on; of a fold that it has heard, the figures "
            "are too good",
            model.path,
        )
        datasets = {clip.dataset for clip in clips}
        trained_on = {name: tuple({clip.fold for clip in clips} - set(folds)) for name in datasets}
    heard_folds = trained_on.get("us8k", ())
    folds = sorted(present - set(heard_folds) if folds is None else set(folds))
    for fold in folds:
        if fold not in present:
            raise UsageError(f"--folds {fold}: not in --us8k, expected of {', '.join(map(str, sorted(present)))}")
        if fold in heard_folds:
            raise UsageError(
                f"--folds {fold}: {model.path} was trained on it (trained_on.us8k in its card), expected of "
                f"{', '.join(map(str, sorted(present - set(heard_folds)))) or 'another copy of the data'}"
            )
    if not folds:
        raise UsageError(
            f"--us8k: {model.path} was trained on all folds in it ({', '.join(map(str, sorted(present)))}), expected "
            "one that it has not heard"
        )

    def was_heard(clip: Clip) -> bool:
        return clip.fold in trained_on.get(clip.dataset, ())

    heard = {clip.recording for clip in [*clips, *ten_classes] if was_heard(clip)}
    labels = model.card.labels
    known = [clip for clip in clips if clip.label in labels or clip.label != BACKGROUND]
    unheard = [clip for clip in known if clip.fold in folds and not was_heard(clip)]
    tested = [clip for clip in unheard if clip.recording not in heard]
    for clip in tested:
        if clip.label not in labels:
            raise UsageError(f"--model {model.path}: does not know {clip.label}, expected the labels of UrbanSound8K")
    if len(tested) < len(unheard):
        log.info("benchmark.left_out clips=%d: of recordings that were heard in training", len(unheard) - len(tested))
    in_test = {clip.recording for clip in tested}
    frozen = [clip for clip in ten_classes if clip.fold in folds and not was_heard(clip)]
    frozen = [clip for clip in frozen if clip.recording not in heard]
    frozen_folds, in_frozen_test = {clip.fold for clip in frozen}, {clip.recording for clip in frozen}
    return Trial(
        train=[clip for clip in known if was_heard(clip) and clip.recording not in in_test],
        tests={fold: [clip for clip in tested if clip.fold == fold] for fold in folds},
        frozen_train=[
            clip for clip in ten_classes if clip.fold not in frozen_folds and clip.recording not in in_frozen_test
        ],
        frozen_tests={fold: [clip for clip in frozen if clip.fold == fold] for fold in sorted(frozen_folds)},
    )


def benchmark(
    model: ModelFolder, trial: Trial, peers: "Sequence[PublishedNetwork]" = ()
) -> dict[str, list[FoldPredictions]]:
    """The predictions of the model and of each peer, by data set; those on ESC-10 where it can be tested.

    Args:
        model: as it is.
        trial: what to test on.
        peers: networks to compare with.

    Raises:
        UsageError: there is nothing that peers could learn from.
    """
    listener, labels = Listener(model), model.card.labels
    system = f"{model.card.name} {model.card.version}"
    runs: dict[str, list[FoldPredictions]] = {"us8k": []}
    for fold, clips in trial.tests.items():
        heard = [np.stack([one.likelihoods for one in listener.hear(clip.file)]) for clip in clips]
        counts = [len(rows) for rows in heard]
        likelihoods = np.concatenate(heard)
        runs["us8k"].append(
            predictions_of(clips, likelihoods, counts, labels=labels, system=system, fold=fold, seed=SEED)
        )
        log.info("benchmark.tested fold=%d clips=%d", fold, len(clips))

    def embed(clips: Sequence[Clip]) -> list[FloatArray]:
        return [np.stack([one.embedding for one in listener.hear(clip.file)]) for clip in clips]

    has_frozen = bool(trial.frozen_train and trial.frozen_tests)
    if has_frozen:
        runs["esc10"] = frozen_runs(f"{system} + MLP", embed, trial.frozen_train, trial.frozen_tests)
    if not peers:
        return runs
    if not trial.train:
        raise UsageError(
            "--peer: no fold in --us8k that the model was trained on, expected one for its MLP to learn from"
        )

    from model_export.peers import peer_runs, system_of  # TensorFlow
    from model_export.train import Recipe

    for peer in peers:
        runs["us8k"] += peer_runs(peer, trial.train, trial.tests, Recipe(), labels=labels)
        if has_frozen:
            runs["esc10"] += frozen_runs(system_of(peer), peer.embeddings_of, trial.frozen_train, trial.frozen_tests)
    return runs
