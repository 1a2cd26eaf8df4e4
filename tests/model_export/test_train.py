"""Training."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from agent.model_card import sha256_of
from model_export.clips import urbansound8k
from model_export.features import all_windows, frames_of_clips
from model_export.published import PublishedNetwork
from model_export.train import TRAINING_NAME, OneCycle, train, training_clips
from tests.model_export.conftest import SMALL_RECIPE


def test_the_loss_falls(trained: Path) -> None:
    """Even a few epochs on a few clips teach something."""
    record = json.loads((trained / TRAINING_NAME).read_text())

    losses = record["losses"]
    assert len(losses) == SMALL_RECIPE.epochs + SMALL_RECIPE.calm_epochs
    assert losses[-1] < losses[0]
    assert record["recipe"] == dataclasses.asdict(SMALL_RECIPE)
    assert record["clips"] == 28


@pytest.mark.slow
def test_a_teachers_embedding_is_learnt_besides_the_labels(
    data_sets: tuple[Path, Path], published: Path, tmp_path: Path
) -> None:
    """The loss, lessons included, falls; what is saved is the sensor alone."""
    clips = urbansound8k(data_sets[0])
    recipe = dataclasses.replace(SMALL_RECIPE, epochs=10)

    embedding, classifier = train(clips, recipe, tmp_path, teachers=[PublishedNetwork(published)])

    record = json.loads((tmp_path / TRAINING_NAME).read_text())
    assert record["teachers"] == [{"name": "loudness", "sha256": sha256_of(published)}]
    assert record["losses"][-1] < record["losses"][0]
    assert record["parameters"] == embedding.count_params() + classifier.count_params()


def test_lessons_of_several_teachers_stand_side_by_side(data_sets: tuple[Path, Path], published: Path) -> None:
    """Each around its mean and in units of its own deviation, one row for each of a clip's windows."""
    clips = urbansound8k(data_sets[0])
    teacher = PublishedNetwork(published)

    data = training_clips(clips, SMALL_RECIPE, [teacher, teacher])

    lessons = np.concatenate(data.lessons)
    assert len(data.lessons) == len(clips) + SMALL_RECIPE.noise_clips
    assert lessons.shape[1] == 12
    np.testing.assert_allclose(lessons[:, :6], lessons[:, 6:])
    np.testing.assert_allclose(lessons[:, :6].mean(axis=0), 0.0, atol=1e-4)
    assert np.mean(lessons[:, :6] ** 2) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.slow
def test_a_clip_can_be_trained_on_twice_alike(data_sets: tuple[Path, Path], tmp_path: Path) -> None:
    """With one thread, the same seed gives the same network."""
    clips = urbansound8k(data_sets[0])
    recipe = dataclasses.replace(SMALL_RECIPE, epochs=1, calm_epochs=1)
    windows, _ = all_windows(frames_of_clips(clips[:2]))

    embeddings = [
        train(clips, recipe, tmp_path / name)[0].predict(windows[..., None], verbose=0) for name in ("a", "b")
    ]

    np.testing.assert_allclose(embeddings[0], embeddings[1], rtol=0.05, atol=0.05)


def test_the_learning_rate_rises_and_falls() -> None:
    """One cycle: from nearly nothing to the peak at the end of the warm-up, and back."""
    rate = OneCycle(1e-3, 100, 0.25)

    rates = [float(rate(np.float32(step))) for step in (0, 25, 100)]

    np.testing.assert_allclose(rates, [1e-6, 1e-3, 1e-6], rtol=1e-3)
