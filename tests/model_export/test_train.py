"""Training."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from agent.model_card import sha256_of
from model_export.clips import BACKGROUND, LABELS, esc10, urbansound8k
from model_export.features import all_windows, frames_of_clips
from model_export.published import PublishedNetwork
from model_export.train import TRAINING_NAME, OneCycle, cross_entropy, sigmoid_cross_entropy, train, training_clips
from tests.model_export.conftest import SMALL_RECIPE


def test_the_loss_falls(trained: Path) -> None:
    """Even a few epochs on a few clips teach something."""
    record = json.loads((trained / TRAINING_NAME).read_text())

    losses = record["losses"]
    assert len(losses) == SMALL_RECIPE.epochs + SMALL_RECIPE.calm_epochs
    assert losses[-1] < losses[0]
    assert record["recipe"] == json.loads(json.dumps(dataclasses.asdict(SMALL_RECIPE)))
    assert record["clips"] == 29


@pytest.mark.slow
def test_a_teacher_is_imitated_besides_the_labels(
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


def test_what_is_trained_on_is_clips_and_noise(data_sets: tuple[Path, Path]) -> None:
    """Clips have their labels, noise is background, each of a recording of its own; what we do not tell is, too."""
    clips = urbansound8k(data_sets[0]) + esc10(data_sets[1])

    data = training_clips(clips, SMALL_RECIPE)

    assert [clip.label for clip in clips if clip.file.name.endswith("rooster.wav")] == [BACKGROUND]
    assert len(data.sounds) == len(clips) + SMALL_RECIPE.noise_clips
    assert [LABELS[target] for target in data.targets[: len(clips)]] == [clip.label for clip in clips]
    assert set(data.targets[len(clips) :]) == {data.background}
    assert len(set(data.recordings[len(clips) :])) == SMALL_RECIPE.noise_clips
    assert min(map(len, data.sounds)) >= 16_000


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


def test_each_label_costs_on_its_own() -> None:
    """Against its definition, for one label and for two at a time."""
    labels = np.asarray([[1.0, 0.0], [1.0, 0.5]], np.float32)
    likelihoods = np.asarray([[0.5, 0.1], [0.8, 0.4]], np.float32)

    expected = [np.log(2.0) - np.log(0.9), -np.log(0.8) - 0.5 * np.log(0.4) - 0.5 * np.log(0.6)]
    np.testing.assert_allclose(sigmoid_cross_entropy(labels, likelihoods), expected, rtol=1e-5)


def test_the_labels_cost_the_cross_entropy() -> None:
    """Against its definition, for one label and for two that share."""
    labels = np.asarray([[1.0, 0.0], [0.25, 0.75]], np.float32)
    likelihoods = np.asarray([[0.5, 0.5], [0.1, 0.9]], np.float32)

    expected = [np.log(2.0), -0.25 * np.log(0.1) - 0.75 * np.log(0.9)]
    np.testing.assert_allclose(cross_entropy(labels, likelihoods), expected, rtol=1e-6)


def test_the_learning_rate_rises_and_falls() -> None:
    """One cycle: from nearly nothing to the peak at the end of the warm-up, and back."""
    rate = OneCycle(1e-3, 100, 0.25)

    rates = [float(rate(np.float32(step))) for step in (0, 25, 100)]

    np.testing.assert_allclose(rates, [1e-6, 1e-3, 1e-6], rtol=1e-3)
