"""Teachers: their inner maps, read where ours lie."""

from pathlib import Path

import numpy as np
import pytest

from agent.errors import ModelError
from agent.values import FloatArray
from model_export.features import FRONT_END
from model_export.networks import FILTERS, embedding_network
from model_export.published import PublishedNetwork
from model_export.teachers import MOST_UNITS, Teachers, our_layers
from tests.conftest import SHARED_DATA

YAMNET = SHARED_DATA.parent / "models" / "yamnet.tflite"
WEIGHTS = (0.2, 0.7, 0.7)


@pytest.fixture(scope="module")
def yamnet() -> PublishedNetwork:
    if not YAMNET.is_file():
        pytest.skip("yamnet.tflite is not at hand")
    return PublishedNetwork(YAMNET)


def noise(n: int) -> FloatArray:
    sounds: FloatArray = np.random.default_rng(0).normal(0, 0.1, (n, 16_000)).astype(np.float32)
    return sounds


def test_our_layers_are_those_of_the_network() -> None:
    """Each has as many columns and rows as in Keras, and together the last two columns hear the whole window."""
    network = embedding_network(FRONT_END)

    layers = list(our_layers())

    assert len(layers) == len(FILTERS) - 1
    for layer in layers:
        assert network.get_layer(layer.name).output.shape[1:3] == (len(layer.times_s), len(layer.mels))
        assert layer.times_s.mean() == pytest.approx(0.03 + 37.5 * 0.0125)  # they lie around the window's middle
    last = layers[-1]
    assert last.hears_s + last.times_s[1] - last.times_s[0] == pytest.approx(75 * 0.0125)


def test_yamnet_teaches_its_maps_and_its_embedding(yamnet: PublishedNetwork) -> None:
    """For each of our layers, the map of YAMNet that hears as much: of its layers 4, 6 and 8."""
    teachers = Teachers([yamnet], map_weights=WEIGHTS, embedding_weight=3.0)

    said = teachers.say(noise(2))

    assert [(lesson.layer, lesson.n_values, lesson.weight) for lesson in teachers.lessons] == [
        ("pool2", 128, 0.2),
        ("pool3", 256, 0.7),
        ("relu4b", 512, 0.7),
        ("maximum", 48, 3.0),
    ]
    assert [one.shape for one in said] == [(2, 16, 15, 128), (2, 6, 7, 256), (2, 2, 7, 512), (2, 48)]


def test_a_map_is_read_where_ours_lies(yamnet: PublishedNetwork) -> None:
    """A click comes in the column of the lesson whose time is the click's."""
    teachers = Teachers([yamnet], map_weights=WEIGHTS, embedding_weight=3.0)
    times_s = next(our_layers()).times_s
    quiet = 1e-3 * noise(1)[0]

    for column in (4, 8, 12):
        clicked = quiet.copy()
        clicked[round(times_s[column] * 16_000) + np.arange(-80, 80)] += 0.5
        changed = np.abs(teachers.say(clicked[None])[0] - teachers.say(quiet[None])[0]).mean(axis=(0, 2, 3))

        heard = (changed * np.arange(16)).sum() / changed.sum()
        assert changed.argmax() == pytest.approx(column, abs=1) or heard == pytest.approx(column, abs=1.5)


def test_lessons_are_given_in_units_of_their_own_variation(published: Path) -> None:
    """Over the sounds that set the units, each value lies around 0 and varies by about 1; two teachers, two lessons."""
    teacher = PublishedNetwork(published)
    teachers = Teachers([teacher, teacher], map_weights=WEIGHTS, embedding_weight=3.0)
    sounds = (noise(40) * np.geomspace(0.01, 1.0, 40)[:, None]).astype(np.float32)

    teachers.settle(sounds)
    one, other = teachers.say(sounds)

    assert [lesson.layer for lesson in teachers.lessons] == ["maximum", "maximum"]  # this teacher has no maps
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(one.mean(axis=0), 0.0, atol=1e-3)
    assert (one.std(axis=0) <= 1.0 + 1e-3).all()
    assert one.std(axis=0).max() > 0.5


def test_each_component_of_an_embedding_counts_as_much_as_any_other(yamnet: PublishedNetwork) -> None:
    """They do not say the same thing twice, and the first ones, which vary most, are not louder than the last."""
    teachers = Teachers([yamnet], map_weights=WEIGHTS, embedding_weight=3.0)
    white, louder = noise(150), np.geomspace(1e-3, 1.0, 150)[:, None]
    sounds = (np.cumsum(white, axis=1) * louder + white[::-1] * louder[::-1]).astype(np.float32)

    teachers.settle(sounds)

    (components,) = teachers.embeddings(teachers.say(sounds))
    covariance = np.cov(components.T)
    assert teachers.embedding_values == [48]
    np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), 0.0, atol=0.1)
    assert np.diag(covariance)[:8].mean() < 2 * np.diag(covariance)[24:].mean()


def test_a_teacher_hears_every_sound_at_the_same_level(published: Path) -> None:
    """Ours learns that a quieter sound is the same sound; silence stays silence."""
    teachers = Teachers([PublishedNetwork(published)], map_weights=WEIGHTS, embedding_weight=3.0)
    sound = noise(1)

    (loud,), (quiet,), (silent,) = (teachers.say(sound * np.float32(gain)) for gain in (1.0, 0.2, 0.0))

    np.testing.assert_allclose(loud, quiet, rtol=1e-4)
    assert np.isfinite(silent).all()


def test_without_teachers_nothing_is_taught() -> None:
    """Then there are the labels alone."""
    assert Teachers([], map_weights=WEIGHTS, embedding_weight=3.0).say(noise(2)) == []


def test_a_teacher_that_hears_longer_than_we_do_is_refused(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no sound to give it."""
    teacher = PublishedNetwork(published)
    monkeypatch.setattr(teacher, "window_samples", 32_000)

    with pytest.raises(
        ModelError, match="network loudness: hears 32000 samples at 16000 Hz at once, expected at most the 1 s"
    ):
        Teachers([teacher], map_weights=WEIGHTS, embedding_weight=3.0)


def test_a_teacher_of_another_rate_hears_the_same_sound(spectrogram_network: Path) -> None:
    """Ours is resampled for it: what it says of a tone is what it says of that tone at its own rate."""
    teacher = PublishedNetwork(spectrogram_network)
    tone = (0.1 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)).astype(np.float32)

    (said,) = Teachers([teacher], map_weights=WEIGHTS, embedding_weight=3.0).say(tone[None])

    levels = np.maximum(teacher.inside(tone[::2])[-1], -(MOST_UNITS**2))  # half decibels; roots of them are said
    assert said.shape == (1, 48)
    np.testing.assert_allclose(-(said[0] ** 2), levels[:48], atol=1.0)
