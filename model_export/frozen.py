"""How good a frozen embedding is on other classes than it was made for: an MLP on it, trained and tested by fold.

In: ESC-10 with all ten classes, and what gives each clip's embeddings, ours or a peer's. Out: a run for each test fold
and seed, by the same MLP and protocol for all.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from agent.values import FloatArray
from model_export.clips import Clip
from model_export.head import labels_of, train_head
from model_export.results import FoldPredictions, predictions_of

SEEDS = (0, 1, 2)

Embed = Callable[[Sequence[Clip]], Sequence[FloatArray]]  # for each clip, float32 (n_windows, d)


def frozen_runs(
    system: str, embed: Embed, train: Sequence[Clip], tests: Mapping[int, Sequence[Clip]]
) -> list[FoldPredictions]:
    """Train the MLP with each seed, and test it on each fold, by the sum of likelihoods over each clip's windows.

    Args:
        system: what it is called.
        embed: the embedding, which has heard no clip of the tests.
        train: clips to train on.
        tests: by fold, clips of other recordings.
    """
    clips = [*train, *(clip for fold in tests.values() for clip in fold)]
    labels, embeddings = labels_of(clips), dict(zip(clips, embed(clips), strict=True))
    runs = []
    for seed in SEEDS:
        head = train_head(train, embeddings, seed=seed, labels=labels)
        for fold, test in tests.items():
            likelihoods = [head.likelihoods(embeddings[clip]) for clip in test]
            counts = [len(rows) for rows in likelihoods]
            runs.append(
                predictions_of(
                    test, np.concatenate(likelihoods), counts, labels=labels, system=system, fold=fold, seed=seed
                )
            )
    return runs
