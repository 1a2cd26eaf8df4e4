"""Training."""

import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest

from agent.model_card import sha256_of
from model_export.augment import UNLABELLED
from model_export.clips import LABELS, esc10_others, urbansound8k
from model_export.features import all_windows, frames_of_clips
from model_export.networks import classifier_network
from model_export.published import PublishedNetwork
from model_export.train import TRAINING_NAME, OneCycle, cross_entropy, train, training_clips
from tests.model_export.conftest import SMALL_RECIPE


def test_the_loss_falls(trained: Path) -> None:
    """Even a few epochs on a few clips teach something."""
    record = json.loads((trained / TRAINING_NAME).read_text())

    losses = record["losses"]
    assert len(losses) == SMALL_RECIPE.epochs + SMALL_RECIPE.calm_epochs
    assert losses[-1] < losses[0]
    assert record["recipe"] == json.loads(json.dumps(dataclasses.asdict(SMALL_RECIPE)))
    assert record["clips"] == 28


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


def test_what_is_trained_on_is_labelled_noise_or_without_label(data_sets: tuple[Path, Path]) -> None:
    """Clips have their labels, noise is background, and the sounds for teachers have none."""
    clips, others = urbansound8k(data_sets[0]), esc10_others(data_sets[1])

    data = training_clips(clips, others, SMALL_RECIPE)

    assert [clip.label for clip in others] == ["rooster"]
    assert len(data.sounds) == len(clips) + SMALL_RECIPE.noise_clips + 1
    assert [LABELS[target] for target in data.targets[: len(clips)]] == [clip.label for clip in clips]
    assert set(data.targets[len(clips) : -1]) == {data.background}
    assert data.targets[-1] == UNLABELLED
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


def test_a_sound_without_label_teaches_the_classifier_nothing() -> None:
    """Neither its loss nor its gradient: what has no label must not move what says labels."""
    classifier = classifier_network(8, len(LABELS))
    classifier.compile(keras.optimizers.SGD(1.0), loss=cross_entropy)
    before = classifier.get_layer("likelihoods").get_weights()
    embeddings = np.random.default_rng(1).standard_normal((16, 8)).astype(np.float32)

    loss = classifier.train_on_batch(embeddings, np.zeros((16, len(LABELS)), np.float32))

    assert loss == 0.0
    for weights, was in zip(classifier.get_layer("likelihoods").get_weights(), before, strict=True):
        np.testing.assert_array_equal(weights, was)


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
