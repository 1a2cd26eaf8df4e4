"""Published networks as opponents: their frozen embeddings under the paper's MLP, on the same clips and folds as ours.

In: networks, training clips, test clips. Out: a run for each test fold and seed. They hear the same synthetic
background in training as our network, and validation is split by recording: the published split by window leaks.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.errors import UsageError
from agent.values import FloatArray
from model_export import noise
from model_export.clips import BACKGROUND, Clip, split_by_recording
from model_export.published import RATE_HZ, PublishedNetwork, clip_targets, train_mlp
from model_export.results import FoldPredictions, predictions_of
from model_export.train import Recipe

SEEDS = (0, 1, 2)
VALIDATION_FRACTION = 0.1
HASH_DIGITS = 8


def peers_of(files: Sequence[Path], cache: Path | None = None) -> list[PublishedNetwork]:
    """The networks in these files; those of the same file name are told apart by their SHA-256.

    Args:
        files: TFLite, each another network.
        cache: folder that keeps the embeddings of clips from run to run; none without.

    Raises:
        ModelError: a file is not such a network.
        UsageError: a network is given twice.
    """
    peers = [PublishedNetwork(file, cache=cache) for file in files]
    names = [peer.name for peer in peers]
    for peer in peers:
        if names.count(peer.name) > 1:
            peer.name = f"{peer.name} {peer.identity['sha256'][:HASH_DIGITS]}"
    for number, peer in enumerate(peers):
        if peer.name in [other.name for other in peers[:number]]:
            raise UsageError(f"--peer {files[number]}: the same network twice, expected different ones")
    return peers


def system_of(peer: PublishedNetwork) -> str:
    """What a peer is called in the tables."""
    return f"{peer.name} + MLP"


def peer_runs(
    peer: PublishedNetwork,
    train: Sequence[Clip],
    tests: Mapping[int, Sequence[Clip]],
    recipe: Recipe,
    *,
    labels: tuple[str, ...],
) -> list[FoldPredictions]:
    """Train the MLP with each seed, and test it on each fold.

    Args:
        peer: whose embeddings.
        train: clips to train on.
        tests: by fold, clips of other recordings.
        recipe: how much synthetic background there is.
        labels: what is told apart.

    Raises:
        UsageError: no label has recordings enough for training and validation.
    """
    heard = {fold: peer.embeddings_of(clips) for fold, clips in tests.items()}
    noises = _noise_embeddings(peer, recipe) if BACKGROUND in labels else []
    runs = []
    for seed in SEEDS:
        kept, held = split_by_recording(train, fraction=VALIDATION_FRACTION, seed=seed)
        x, y = _rows(peer, kept, labels)
        for rows in noises:
            x = np.concatenate([x, rows])
            y = np.concatenate([y, np.full(len(rows), labels.index(BACKGROUND), np.int64)])
        classifier = train_mlp((x, y), _rows(peer, held, labels), n_labels=len(labels), seed=seed)
        for fold, clips in tests.items():
            likelihoods = classifier.predict(np.concatenate(heard[fold]), batch_size=512, verbose=0)
            counts = [len(rows) for rows in heard[fold]]
            runs.append(
                predictions_of(clips, likelihoods, counts, labels=labels, system=system_of(peer), fold=fold, seed=seed)
            )
    return runs


def _noise_embeddings(peer: PublishedNetwork, recipe: Recipe) -> list[FloatArray]:
    """The peer hears the same kind and amount of synthetic background."""
    rng = np.random.default_rng(recipe.seed)
    n_samples = round(recipe.noise_clip_s * RATE_HZ)
    sounds = [noise.background(n_samples, RATE_HZ, rng) for _ in range(recipe.noise_clips)]
    return [np.concatenate([peer.embeddings(sound, RATE_HZ) for sound in sounds])] if sounds else []


def _rows(
    peer: PublishedNetwork, clips: Sequence[Clip], labels: tuple[str, ...]
) -> tuple[FloatArray, NDArray[np.int64]]:
    rows = peer.embeddings_of(clips)
    targets = [labels.index(clip.label) for clip in clips]
    return np.concatenate(rows), clip_targets(targets, [len(row) for row in rows])
