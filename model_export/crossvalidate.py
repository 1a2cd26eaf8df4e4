"""Cross-validation over the folds of UrbanSound8K: our network and its peers on the same clips, by the same rules.

In: clips. Out: `predictions.csv`. For each fold the network is trained on the other folds (no recording of the fold is
in training), quantized, and run through the agent's own front end and inference, and once more in float; peers are
embedded, and the paper's MLP is trained on their embeddings. What the predictions are worth, `evaluate` says.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from agent.inference import Classifier
from agent.values import FloatArray, Window
from model_export import networks, noise
from model_export.clips import BACKGROUND, LABELS, Clip, hold_out_fold, split_by_recording
from model_export.features import all_windows, frames_of_clips
from model_export.package import write_card
from model_export.published import RATE_HZ, PublishedNetwork, clip_targets, train_mlp
from model_export.quantize import quantize, representative_windows
from model_export.results import (
    OURS,
    OURS_FLOAT,
    PREDICTIONS_NAME,
    FoldPredictions,
    predictions_of,
    read_predictions,
    write_predictions,
)
from model_export.train import TRAINING_NAME, Recipe, train

log = logging.getLogger(__name__)

PEER_SEEDS = (0, 1, 2)
VALIDATION_FRACTION = 0.1


def crossvalidate(
    clips: Sequence[Clip],
    recipe: Recipe,
    out: Path,
    *,
    folds: Sequence[int],
    peers: Sequence[PublishedNetwork],
    teachers: Sequence[PublishedNetwork] = (),
    num_threads: int,
) -> list[FoldPredictions]:
    """Train and test on each fold.

    What stands in `out` from a run of the same recipe and teachers is used again: networks and finished folds. A fold
    whose networks are there but not all of its predictions is tested again, without training.

    Returns:
        what stands in `out / PREDICTIONS_NAME`: the predictions of these folds.
    """
    runs: list[FoldPredictions] = []
    systems = [OURS, OURS_FLOAT, *(f"{peer.name} + MLP" for peer in peers)]
    for fold in folds:
        work = out / f"fold{fold}"
        # ESC-10's weather, water, fire and clocks in the test say whether background stays background; they are not in
        # the accuracy.
        split = hold_out_fold(clips, fold)
        if not _is_done(work, recipe, teachers, systems):
            trained = _networks(split[0], recipe, work, teachers=teachers, num_threads=num_threads)
            tested = _own_results(split, trained, recipe, work, fold=fold)
            for peer in peers:
                tested += _peer_results(peer, split, recipe, fold=fold)
            write_predictions(tested, work / PREDICTIONS_NAME)
        runs += read_predictions(work / PREDICTIONS_NAME)
        log.info("crossvalidate.tested fold=%d", fold)
    write_predictions(runs, out / PREDICTIONS_NAME)
    return runs


def _is_done(work: Path, recipe: Recipe, teachers: Sequence[PublishedNetwork], systems: Sequence[str]) -> bool:
    file = work / PREDICTIONS_NAME
    return (
        _is_trained(work, recipe, teachers)
        and file.is_file()
        and {run.system for run in read_predictions(file)} == set(systems)
    )


def _networks(
    clips: Sequence[Clip],
    recipe: Recipe,
    work: Path,
    *,
    teachers: Sequence[PublishedNetwork],
    num_threads: int,
) -> tuple[keras.Model, keras.Model]:
    if _is_trained(work, recipe, teachers):
        log.info("crossvalidate.trained_before folder=%s", work.name)
        return load_networks(work)
    return train(clips, recipe, work, teachers=teachers, num_threads=num_threads)


def _own_results(
    split: tuple[Sequence[Clip], Sequence[Clip]],
    trained: tuple[keras.Model, keras.Model],
    recipe: Recipe,
    work: Path,
    *,
    fold: int,
) -> list[FoldPredictions]:
    (train_clips, test_clips), (embedding, classifier) = split, trained
    quantize(embedding, classifier, representative_windows(train_clips, seed=recipe.seed), work)
    agents_own = Classifier(write_card(work, onset_response_s=0.0, offset_response_s=0.0))
    windows, counts = all_windows(frames_of_clips(test_clips))
    int8 = np.stack([agents_own.predict(Window(window, 0, 1)).likelihoods for window in windows])
    embeddings = embedding.predict(windows[..., None], batch_size=64, verbose=0)
    in_float = classifier.predict(embeddings, batch_size=512, verbose=0)
    return [
        predictions_of(test_clips, likelihoods, counts, system=system, fold=fold, seed=recipe.seed)
        for system, likelihoods in ((OURS, int8), (OURS_FLOAT, in_float))
    ]


def _is_trained(work: Path, recipe: Recipe, teachers: Sequence[PublishedNetwork]) -> bool:
    if not (work / TRAINING_NAME).is_file():
        return False
    record = json.loads((work / TRAINING_NAME).read_text(encoding="utf-8"))
    as_recorded = json.loads(json.dumps(asdict(recipe)))
    return bool(record["recipe"] == as_recorded and record["teachers"] == [teacher.identity for teacher in teachers])


def load_networks(work: Path) -> tuple[keras.Model, keras.Model]:
    """The two networks that `train` saved."""
    embedding = keras.models.load_model(work / f"{networks.EMBEDDING}.keras", compile=False)
    classifier = keras.models.load_model(work / f"{networks.CLASSIFIER}.keras", compile=False)
    return embedding, classifier


def _peer_results(
    peer: PublishedNetwork, split: tuple[Sequence[Clip], Sequence[Clip]], recipe: Recipe, *, fold: int
) -> list[FoldPredictions]:
    train_clips, test_clips = split
    noise_rows = _noise_embeddings(peer, recipe)
    test_rows = peer.embeddings_of(test_clips)
    counts = [len(rows) for rows in test_rows]
    runs = []
    for seed in PEER_SEEDS:
        kept, held = split_by_recording(train_clips, fraction=VALIDATION_FRACTION, seed=seed)
        x, y = _rows(peer, kept)
        x = np.concatenate([x, noise_rows])
        y = np.concatenate([y, np.full(len(noise_rows), LABELS.index(BACKGROUND), np.int64)])
        classifier = train_mlp((x, y), _rows(peer, held), n_labels=len(LABELS), seed=seed)
        likelihoods = classifier.predict(np.concatenate(test_rows), batch_size=512, verbose=0)
        system = f"{peer.name} + MLP"
        runs.append(predictions_of(test_clips, likelihoods, counts, system=system, fold=fold, seed=seed))
    return runs


def _noise_embeddings(peer: PublishedNetwork, recipe: Recipe) -> FloatArray:
    """The peer hears the same kind and amount of synthetic background."""
    rng = np.random.default_rng(recipe.seed)
    n_samples = round(recipe.noise_clip_s * RATE_HZ)
    sounds = [noise.background(n_samples, RATE_HZ, rng) for _ in range(recipe.noise_clips)]
    return np.concatenate([peer.embeddings(sound, RATE_HZ) for sound in sounds])


def _rows(peer: PublishedNetwork, clips: Sequence[Clip]) -> tuple[FloatArray, NDArray[np.int64]]:
    rows = peer.embeddings_of(clips)
    targets = [LABELS.index(clip.label) for clip in clips]
    return np.concatenate(rows), clip_targets(targets, [len(row) for row in rows])
