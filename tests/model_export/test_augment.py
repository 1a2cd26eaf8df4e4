"""Windows for training, changed as the world changes them."""

import dataclasses

import numpy as np
import pytest

from model_export.augment import Augmentation, TrainingClips, WindowDrawer, add_power, level_db
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
    return TrainingClips(frames, np.array([0, 1, 2, 2]), n_labels=3, background=2)


def test_powers_add() -> None:
    """Two equal sounds are 3 dB louder than one, and a far quieter one changes nothing."""
    level = np.full((1, 2), -40.0, np.float32)

    np.testing.assert_allclose(add_power(level, level), -36.99, atol=0.01)
    np.testing.assert_allclose(add_power(level, level - 90.0), -40.0, atol=0.01)


def test_without_changes_a_window_is_a_cut_of_its_clip(clips: TrainingClips) -> None:
    """With every change off, what is drawn stands in the clip, under the clip's label."""
    window, label = WindowDrawer(clips, QUIET, seed=1).window(0)

    np.testing.assert_array_equal(window, clips.frames[0])
    np.testing.assert_array_equal(label, [1.0, 0.0, 0.0])


def test_the_same_seed_draws_the_same_epoch(clips: TrainingClips) -> None:
    """Training can be repeated."""
    first, again = (list(WindowDrawer(clips, Augmentation(), seed=5).epoch(2)) for _ in range(2))

    assert len(first) == 2
    for (window, label), (other_window, other_label) in zip(first, again, strict=True):
        np.testing.assert_array_equal(window, other_window)
        np.testing.assert_array_equal(label, other_label)


def test_mixed_windows_have_labels_by_power(clips: TrainingClips) -> None:
    """A mixture's labels share 1 between the two sounds, more of it for the louder."""
    how = dataclasses.replace(QUIET, mixup_probability=1.0, mixup_snr_db=10.0)
    drawer = WindowDrawer(clips, how, seed=2)

    labels = np.stack([drawer.window(0)[1] for _ in range(50)])

    np.testing.assert_allclose(labels.sum(axis=1), 1.0, atol=1e-6)
    mixed = labels[:, 0][labels[:, 0] < 1.0]
    assert mixed.min() >= 1.0 / 11.0 - 1e-6  # 10 dB below the other
    assert mixed.max() <= 10.0 / 11.0 + 1e-6


def test_a_background_does_not_change_the_label(clips: TrainingClips) -> None:
    """A street sound in noise is still that street sound, and the window is louder for it."""
    how = dataclasses.replace(QUIET, background_probability=1.0, background_snr_db=(3.0, 3.0))

    window, label = WindowDrawer(clips, how, seed=3).window(0)

    np.testing.assert_array_equal(label, [1.0, 0.0, 0.0])
    assert level_db(window) - level_db(clips.frames[0]) == pytest.approx(1.76, abs=0.1)  # 1 + 10^(-0.3)


def test_every_change_keeps_shape_and_range(clips: TrainingClips) -> None:
    """Whatever is done to a window, the network can take it."""
    drawer = WindowDrawer(clips, Augmentation(), seed=4)

    for index in range(40):
        window, _ = drawer.window(index % 4)
        assert window.shape == (FRONT_END.n_frames, FRONT_END.n_mels)
        assert window.dtype == np.float32
        assert FRONT_END.level_min_db <= window.min() <= window.max() <= FRONT_END.level_max_db
