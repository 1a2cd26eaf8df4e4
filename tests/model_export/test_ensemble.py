"""Soft labels."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import pytest

from agent.values import FloatArray
from model_export.augment import Augmentation, Example, WindowDrawer
from model_export.clips import LABELS, urbansound8k
from model_export.ensemble import Ensemble, train_heads
from model_export.loader import Loader
from model_export.published import PublishedNetwork
from model_export.teachers import Teachers
from model_export.train import training_clips
from tests.model_export.conftest import SMALL_RECIPE


def saying(likelihoods: Sequence[float], n_inputs: tuple[int, ...]) -> keras.Model:
    """A network that says the same whatever it is shown."""
    shown = keras.Input(n_inputs)
    answer = keras.layers.Dense(len(likelihoods), activation="sigmoid")
    network = keras.Model(shown, answer(keras.layers.Flatten()(shown)))
    sums = np.log(np.asarray(likelihoods) / (1 - np.asarray(likelihoods)))
    answer.set_weights([np.zeros_like(answer.get_weights()[0]), sums])
    return network


@pytest.fixture
def batch() -> Example:
    """Two windows, the first of the first label, the second of the second."""
    shown: FloatArray = np.zeros((2, 4, 3, 1), np.float32)
    return Example(shown, np.eye(2, dtype=np.float32), np.zeros((2, 10), np.float32))


def test_labels_are_drawn_towards_what_all_say(batch: Example) -> None:
    """Towards the mean of the former network and of each head, as far as the share says."""
    ensemble = Ensemble(saying([0.9, 0.3], (4, 3, 1)), [saying([0.5, 0.1], (5,))], share=0.5)

    softened = ensemble.soften(batch, [np.zeros((2, 5), np.float32)])

    np.testing.assert_allclose(softened, [[0.5 + 0.35, 0.1], [0.35, 0.5 + 0.1]], atol=1e-6)


def test_without_teachers_the_former_network_stands_alone(batch: Example) -> None:
    """Nobody has to have a teacher to train a second generation."""
    softened = Ensemble(saying([0.8, 0.2], (4, 3, 1)), [], share=1.0).soften(batch, [])

    np.testing.assert_allclose(softened, [[0.8, 0.2]] * 2, atol=1e-6)


def test_in_the_first_generation_the_heads_stand_alone(batch: Example) -> None:
    """There is no former network yet; and with no teacher either, labels stay as they are."""
    heads = [saying([0.6, 0.4], (5,))]

    softened = Ensemble(None, heads, share=0.5).soften(batch, [np.zeros((2, 5), np.float32)])

    np.testing.assert_allclose(softened, [[0.8, 0.2], [0.3, 0.7]], atol=1e-6)
    np.testing.assert_array_equal(Ensemble(None, [], share=0.5).soften(batch, []), batch.label)


def test_a_head_tells_labels_by_what_its_teacher_hears(data_sets: tuple[Path, Path], published: Path) -> None:
    """A head for each teacher, which gives likelihoods of all labels, and has learnt something of them."""
    clips = urbansound8k(data_sets[0])
    data = training_clips(clips, SMALL_RECIPE)
    school = Teachers([PublishedNetwork(published)], map_weights=(0.2, 0.7, 0.7), embedding_weight=3.0)
    plain = Augmentation(mixup_probability=0.0, same_label_probability=0.0, background_probability=0.0)
    sounds = next(WindowDrawer(data, plain, 0).epoch(16)).sound
    school.settle(sounds)

    drawer = WindowDrawer(data, plain, 1)
    with Loader([drawer], school) as loader:
        (head,) = train_heads(loader, drawer, n_labels=len(LABELS), likelihoods="sigmoid", epochs=20, batch_size=8)

    shown = next(WindowDrawer(data, plain, 2).epoch(32))
    said = head.predict_on_batch(school.embeddings(school.say(shown.sound))[0])
    assert said.shape == shown.label.shape
    assert said[shown.label == 1.0].mean() > 2 * said[shown.label == 0.0].mean()


def test_where_nobody_teaches_there_is_no_head(data_sets: tuple[Path, Path]) -> None:
    """Then labels are softened by the former network alone."""
    drawer = WindowDrawer(training_clips(urbansound8k(data_sets[0]), SMALL_RECIPE), Augmentation(), 1)
    with Loader([drawer], Teachers([], map_weights=(), embedding_weight=3.0)) as loader:
        heads = train_heads(loader, drawer, n_labels=len(LABELS), likelihoods="sigmoid", epochs=1, batch_size=8)

    assert heads == []
