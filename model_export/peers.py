"""Published networks as opponents: their frozen embeddings under the paper's MLP, on the same clips and folds as ours.

In: networks, training clips, test clips. Out: a run for each test fold and seed. They hear the same synthetic
background in training as our network, and each clip as often. The number of steps is fixed, so nothing is chosen on a
validation set: the published protocol validates on windows that overlap with those of training.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from agent.errors import UsageError
from agent.values import FloatArray
from model_export import mlp, noise
from model_export.augment import draws
from model_export.clips import BACKGROUND, Clip
from model_export.published import RATE_HZ, PublishedNetwork
from model_export.results import FoldPredictions, predictions_of
from model_export.train import Recipe

SEEDS = (0, 1, 2)
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
    """
    heard = {fold: peer.embeddings_of(clips) for fold, clips in tests.items()}
    noises = _noise_embeddings(peer, recipe) if BACKGROUND in labels else []
    embeddings = [*peer.embeddings_of(train), *noises]
    recordings = [*(clip.recording for clip in train), *(f"noise {number}" for number in range(len(noises)))]
    targets = np.array([*(labels.index(clip.label) for clip in train), *[labels.index(BACKGROUND)] * len(noises)])
    counts = np.array([len(rows) for rows in embeddings])
    weights = np.repeat(draws(targets, recordings) / counts, counts)  # of each window
    x, y = np.concatenate(embeddings), np.repeat(targets, counts)
    runs = []
    for seed in SEEDS:
        head = mlp.train(x, y, weights, n_labels=len(labels), seed=seed)
        for fold, clips in tests.items():
            likelihoods = head.likelihoods(np.concatenate(heard[fold]))
            counts_of_fold = [len(rows) for rows in heard[fold]]
            runs.append(
                predictions_of(
                    clips, likelihoods, counts_of_fold, labels=labels, system=system_of(peer), fold=fold, seed=seed
                )
            )
    return runs


def _noise_embeddings(peer: PublishedNetwork, recipe: Recipe) -> list[FloatArray]:
    """The peer hears the same kind and amount of synthetic background; of each noise (n_windows, d)."""
    rng = np.random.default_rng(recipe.seed)
    n_samples = round(recipe.noise_clip_s * RATE_HZ)
    sounds = [noise.background(n_samples, RATE_HZ, rng) for _ in range(recipe.noise_clips)]
    return [peer.embeddings(sound, RATE_HZ) for sound in sounds]
