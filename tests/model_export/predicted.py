"""Predictions made by hand, small enough to be checked in the head; and windows whose truth is known."""

from collections.abc import Sequence

import numpy as np

from model_export.clips import LABELS
from model_export.results import OURS, OURS_FLOAT, FoldPredictions, FoldWindows, Output


def predicted(
    rows: Sequence[tuple[str, str, str, float]], *, system: str = OURS, fold: int = 1, seed: int = 0
) -> FoldPredictions:
    """One run; a row for each clip: recording, true label, label it was taken for, and with what likelihood.

    The other labels share what is left of the likelihood.
    """
    likelihoods = np.array([[(1.0 - row[3]) / (len(LABELS) - 1)] * len(LABELS) for row in rows])
    for number, (_, _, taken_for, likelihood) in enumerate(rows):
        likelihoods[number, LABELS.index(taken_for)] = likelihood
    return FoldPredictions(
        system=system,
        fold=fold,
        seed=seed,
        labels=LABELS,
        clips=tuple(f"us8k {fold}-{number}.wav" for number in range(len(rows))),
        recordings=tuple(row[0] for row in rows),
        targets=np.array([LABELS.index(row[1]) for row in rows]),
        likelihoods=np.round(likelihoods, 4),
    )


def windows_of(
    output: Output, *, fold: int = 1, n_clips: int = 600, too_sure: float = 1.0, shift: float = 0.0
) -> FoldWindows:
    """Clips of two equal windows whose likelihoods would be true, were the sums not multiplied and then shifted.

    Args:
        output: of the network.
        fold: of the clips, and the seed.
        n_clips: each a recording of its own.
        too_sure: what the sums are multiplied by.
        shift: what is then added to those of the first label.
    """
    rng = np.random.default_rng(fold)
    labels = ("siren", "drilling", "background")
    sums = rng.normal(0.0, 1.5, (n_clips, len(labels)))
    if output == "softmax":
        chances = np.exp(sums) / np.exp(sums).sum(axis=1, keepdims=True)
        targets = (chances.cumsum(axis=1) > rng.random((n_clips, 1))).argmax(axis=1)
    else:  # one label of a clip is true: its sum says how likely that is
        targets = rng.integers(0, len(labels), n_clips)
        truth = np.eye(len(labels))[targets]
        sums = rng.normal(2.0 * truth - 1.0, 1.0) * 2.0 - np.log(2.0)  # log odds, one label in three
    given = sums * too_sure + shift * np.eye(len(labels))[0]
    run = FoldPredictions(
        system=OURS_FLOAT,
        fold=fold,
        seed=0,
        labels=labels,
        clips=tuple(f"us8k {fold}-{number}.wav" for number in range(n_clips)),
        recordings=tuple(f"{fold}-{number}" for number in range(n_clips)),
        targets=targets.astype(np.int64),
        likelihoods=np.full((n_clips, len(labels)), 0.5),
    )
    return FoldWindows(run, output, np.repeat(given, 2, axis=0).astype(np.float32), np.full(n_clips, 2))
