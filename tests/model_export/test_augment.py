"""Windows for training, changed as the world changes them."""

import dataclasses

import numpy as np
import pytest

from model_export.augment import (
    FRAMES_PER_LESSON,
    Augmentation,
    TrainingClips,
    WindowDrawer,
    add_power,
    level_db,
)
from model_export.features import FRONT_END

QUIET = Augmentation(
    gain_db=(0.0, 0.0),
    mixup_probability=0.0,
    background_probability=0.0,
    warp_probability=0.0,
    colour_db=0.0,
    masks=0,
)


@pytest.fixture
def clips() -> TrainingClips:
    rng = np.random.default_rng(0)
    frames = [rng.uniform(-80, -20, (n, FRONT_END.n_mels)).astype(np.float32) for n in (76, 120, 300, 90)]
    lessons = [  # the clip, and which of its windows
        np.stack([np.full(n_lessons, clip), np.arange(n_lessons)], axis=1).astype(np.float32)
        for clip, n_lessons in enumerate(1 + (len(clip_frames) - 76) // FRAMES_PER_LESSON for clip_frames in frames)
    ]
    return TrainingClips(frames, np.array([0, 1, 2, 2]), n_labels=3, background=2, lessons=lessons)


def test_powers_add() -> None:
    """Two equal sounds are 3 dB louder than one, and a far quieter one changes nothing."""
    level = np.full((1, 2), -40.0, np.float32)

    np.testing.assert_allclose(add_power(level, level), -36.99, atol=0.01)
    np.testing.assert_allclose(add_power(level, level - 90.0), -40.0, atol=0.01)


def test_without_changes_a_window_is_a_cut_of_its_clip(clips: TrainingClips) -> None:
    """With every change off, what is drawn stands in the clip, under the clip's label."""
    example = WindowDrawer(clips, QUIET, seed=1).example(0)

    np.testing.assert_array_equal(example.window, clips.frames[0])
    np.testing.assert_array_equal(example.label, [1.0, 0.0, 0.0])


def test_a_window_comes_with_the_lesson_of_its_own_moment(clips: TrainingClips) -> None:
    """What the teacher said of the clip where the window was cut, to half a lesson's hop."""
    drawer = WindowDrawer(clips, QUIET, seed=6)

    for _ in range(20):
        window, _, (clip, number), taught = drawer.example(2)
        start = next(n for n in range(225) if np.array_equal(clips.frames[2][n : n + 76], window))
        assert clip == 2.0
        assert taught == 1.0
        assert abs(number * FRAMES_PER_LESSON - start) <= FRAMES_PER_LESSON / 2


def test_the_same_seed_draws_the_same_epoch(clips: TrainingClips) -> None:
    """Training can be repeated."""
    first, again = (list(WindowDrawer(clips, Augmentation(), seed=5).epoch(2)) for _ in range(2))

    assert len(first) == 2
    for batch, same in zip(first, again, strict=True):
        for values, same_values in zip(batch, same, strict=True):
            np.testing.assert_array_equal(values, same_values)


def test_mixed_windows_have_labels_by_power(clips: TrainingClips) -> None:
    """A mixture's labels share 1 between the two sounds, more of it for the louder."""
    how = dataclasses.replace(QUIET, mixup_probability=1.0, mixup_snr_db=10.0)
    drawer = WindowDrawer(clips, how, seed=2)

    examples = [drawer.example(0) for _ in range(50)]
    labels = np.stack([example.label for example in examples])

    assert not any(example.taught for example in examples)  # no teacher has heard the mixture
    np.testing.assert_allclose(labels.sum(axis=1), 1.0, atol=1e-6)
    mixed = labels[:, 0][labels[:, 0] < 1.0]
    assert mixed.min() >= 1.0 / 11.0 - 1e-6  # 10 dB below the other
    assert mixed.max() <= 10.0 / 11.0 + 1e-6


def test_a_background_does_not_change_the_label(clips: TrainingClips) -> None:
    """A street sound in noise is still that street sound, and the window is louder for it."""
    how = dataclasses.replace(QUIET, background_probability=1.0, background_snr_db=(3.0, 3.0))

    example = WindowDrawer(clips, how, seed=3).example(0)

    np.testing.assert_array_equal(example.label, [1.0, 0.0, 0.0])
    assert example.taught == 1.0
    assert level_db(example.window) - level_db(clips.frames[0]) == pytest.approx(1.76, abs=0.1)  # 1 + 10^(-0.3)


def test_every_change_keeps_shape_and_range(clips: TrainingClips) -> None:
    """Whatever is done to a window, the network can take it."""
    drawer = WindowDrawer(clips, Augmentation(), seed=4)

    for index in range(40):
        window = drawer.example(index % 4).window
        assert window.shape == (FRONT_END.n_frames, FRONT_END.n_mels)
        assert window.dtype == np.float32
        assert FRONT_END.level_min_db <= window.min() <= window.max() <= FRONT_END.level_max_db
