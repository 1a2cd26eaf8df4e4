"""How good a frozen embedding is: an MLP on embeddings that are made by formula."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from agent.values import FloatArray
from model_export.clips import Clip
from model_export.frozen import SEEDS, frozen_runs

LABELS = ("rain", "rooster")


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for what is so easily told apart."""
    monkeypatch.setattr("model_export.mlp.STEPS", 40)


@pytest.fixture
def clips() -> list[Clip]:
    """Two clips of each label in each of three folds, each a recording of its own."""
    names = [(label, fold, number) for label in LABELS for fold in (1, 2, 3) for number in (1, 2)]
    return [Clip(Path(f"{label}-{fold}-{number}"), label, "esc10", fold, f"{names}") for label, fold, number in names]


def told_apart(clips: Sequence[Clip]) -> list[FloatArray]:
    """Three windows each; the first value says which label it is."""
    rng = np.random.default_rng(0)
    rows = []
    for clip in clips:
        noise = rng.normal(size=(3, 4)).astype(np.float32)
        noise[:, 0] += 6.0 * LABELS.index(clip.label)
        rows.append(noise)
    return rows


def test_a_fold_is_told_apart_by_what_the_others_taught(clips: list[Clip]) -> None:
    """All clips of the test are judged, with each seed; the labels are the data set's own."""
    train, test = [clip for clip in clips if clip.fold != 2], [clip for clip in clips if clip.fold == 2]

    runs = frozen_runs("mine + MLP", told_apart, train, {2: test})

    assert [(run.system, run.fold, run.seed) for run in runs] == [("mine + MLP", 2, seed) for seed in SEEDS]
    for run in runs:
        assert run.labels == LABELS
        assert run.clips == tuple(f"esc10 {clip.file.name}" for clip in test)
        assert (run.likelihoods.argmax(axis=1) == run.targets).all()


def test_several_folds_are_tested_by_one_training(clips: list[Clip]) -> None:
    """Where one model is judged on all that it has not heard; a label that was not trained on is never right."""
    train = [clip for clip in clips if clip.fold == 1 and clip.label == "rain"]
    tests = {fold: [clip for clip in clips if clip.fold == fold] for fold in (2, 3)}

    runs = frozen_runs("mine + MLP", told_apart, train, tests)

    assert [(run.fold, run.seed) for run in runs] == [(fold, seed) for seed in SEEDS for fold in (2, 3)]
    assert {len(run.targets) for run in runs} == {4}
