"""Windows for training, changed as the world changes them."""

import dataclasses

import numpy as np
import pytest

from agent.frontend import LogMel
from agent.values import FloatArray
from model_export.augment import Augmentation, TrainingClips, WindowDrawer, level_db
from model_export.features import DEEP, FRONT_END, at_card_level

QUIET = Augmentation(
    gain_db=(0.0, 0.0),
    same_label_probability=0.0,
    mixup_probability=0.0,
    background_probability=0.0,
    speed_probability=0.0,
    overload_probability=0.0,
    telephone_probability=0.0,
    colour_db=0.0,
)


def window_of(sound: FloatArray) -> FloatArray:
    return at_card_level(LogMel(DEEP).frames(sound))


@pytest.fixture
def clips() -> TrainingClips:
    """Noise of one window, of two, of three; a label each, the last of them is the background."""
    rng = np.random.default_rng(0)
    sounds = [rng.normal(0, 0.05, n * 16_000).astype(np.float32) for n in (1, 2, 3)]
    return TrainingClips(sounds, np.array([0, 1, 2]), recordings=list("abc"), n_labels=3, background=2)


def test_without_changes_a_window_is_a_cut_of_its_clip(clips: TrainingClips) -> None:
    """With every change off, what is drawn stands in the clip, under the clip's label; a teacher hears the same."""
    drawer = WindowDrawer(clips, QUIET, seed=1)

    window, label, sound = drawer.example(0)
    np.testing.assert_array_equal(sound, clips.sounds[0])
    np.testing.assert_array_equal(window, window_of(clips.sounds[0]))
    np.testing.assert_array_equal(label, [1.0, 0.0, 0.0])

    cut = drawer.example(1).sound
    assert any(np.array_equal(clips.sounds[1][start : start + 16_000], cut) for start in range(16_001))


def test_the_same_seed_draws_the_same_epoch(clips: TrainingClips) -> None:
    """Training can be repeated."""
    first, again = (list(WindowDrawer(clips, Augmentation(), seed=5).epoch(2)) for _ in range(2))

    assert len(first) == 1
    for batch, same in zip(first, again, strict=True):
        for values, same_values in zip(batch, same, strict=True):
            np.testing.assert_array_equal(values, same_values)


def test_mixed_windows_have_labels_by_power(clips: TrainingClips) -> None:
    """With softmax, the two sounds of a mixture share 1, the louder more of it."""
    how = dataclasses.replace(QUIET, mixup_probability=1.0, mixup_snr_db=10.0)
    drawer = WindowDrawer(clips, how, seed=2, likelihoods="softmax")

    labels = np.stack([drawer.example(0).label for _ in range(60)])

    np.testing.assert_allclose(labels.sum(axis=1), 1.0, atol=1e-6)
    mixed = labels[:, 0][labels[:, 0] < 1.0]
    assert mixed.min() >= 1.0 / 11.0 - 1e-6  # 10 dB below the other
    assert mixed.max() <= 10.0 / 11.0 + 1e-6


def test_each_sound_that_can_be_heard_is_a_label(clips: TrainingClips) -> None:
    """With sigmoids, both sounds of a mixture count in full, one far below the other less; background not at all."""
    how = dataclasses.replace(QUIET, mixup_probability=1.0, mixup_snr_db=12.0)
    drawer = WindowDrawer(clips, how, seed=2)

    labels = np.stack([drawer.example(0).label for _ in range(100)])

    mixed = labels[(labels[:, 1] > 0.0)]
    assert mixed.max(axis=1).min() == 1.0
    assert (mixed[:, :2].min(axis=1) == 1.0).any()
    assert mixed[:, :2].min() == pytest.approx(0.5, abs=0.15)  # 12 dB below the other
    street = labels[:, :2].any(axis=1)
    assert not labels[street, 2].any()


def test_two_recordings_of_one_label_make_a_third() -> None:
    """Sounds of the same label are mixed, and the mixture has that label alone; background is left as it is."""
    rng = np.random.default_rng(6)
    sounds = [rng.normal(0, 0.05, 16_000).astype(np.float32) for _ in range(4)]
    clips = TrainingClips(sounds, np.array([0, 0, 1, 1]), list("abcd"), n_labels=2, background=1)
    how = dataclasses.replace(QUIET, same_label_probability=1.0)
    drawer = WindowDrawer(clips, how, seed=1)

    drawn = [drawer.example(0) for _ in range(10)]

    others = [example.sound - sounds[0] for example in drawn]
    assert any(np.corrcoef(other, sounds[1])[0, 1] > 0.99 for other in others if other.any())
    assert all(other.any() for other in others)
    np.testing.assert_array_equal([example.label for example in drawn], [[1.0, 0.0]] * 10)
    np.testing.assert_array_equal(drawer.example(2).sound, sounds[2])


def test_a_recording_that_gave_many_clips_counts_less_than_they_do() -> None:
    """Of sixteen clips of one recording and four recordings of one clip each, half of what is drawn is of the four."""
    rng = np.random.default_rng(7)
    sounds = [rng.normal(0, 0.05, 16_000).astype(np.float32) for _ in range(20)]
    names = ["long"] * 16 + list("abcd")
    clips = TrainingClips(sounds, np.zeros(20, np.int64), names, n_labels=2, background=1)
    drawer = WindowDrawer(clips, QUIET, seed=1)

    drawn = np.concatenate([batch.sound for _ in range(8) for batch in drawer.epoch(4)])

    seldom = sum(any(np.array_equal(sound, sounds[number]) for number in range(16, 20)) for sound in drawn)
    assert len(drawn) == 8 * 20
    assert seldom == 80


def test_what_microphones_and_codecs_do_the_teacher_does_not_hear(clips: TrainingClips) -> None:
    """The window is of the impaired sound, the teacher's sound is not: ours learns to hear through it."""
    how = dataclasses.replace(QUIET, overload_probability=1.0, telephone_probability=1.0, colour_db=9.0)

    example = WindowDrawer(clips, how, seed=3).example(0)

    np.testing.assert_array_equal(example.sound, clips.sounds[0])
    assert np.abs(example.window - window_of(clips.sounds[0])).mean() > 3.0


def test_a_background_does_not_change_the_label(clips: TrainingClips) -> None:
    """A street sound in noise is still that street sound, and louder for it."""
    how = dataclasses.replace(QUIET, background_probability=1.0, background_snr_db=(3.0, 3.0))

    example = WindowDrawer(clips, how, seed=3).example(0)

    np.testing.assert_array_equal(example.label, [1.0, 0.0, 0.0])
    assert level_db(example.sound) - level_db(clips.sounds[0]) == pytest.approx(1.76, abs=0.1)  # 1 + 10^(-0.3)


def test_silence_can_be_mixed_with_anything(clips: TrainingClips) -> None:
    """Digital silence has no level to set another by: it adds nothing, and nothing is not a number."""
    silent = dataclasses.replace(clips, sounds=[np.zeros(16_000, np.float32), *clips.sounds[1:]])
    drawer = WindowDrawer(silent, Augmentation(mixup_probability=1.0), seed=4)

    for index in range(20):
        assert np.isfinite(drawer.example(index % 3).window).all()


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_speed_moves_the_pitch(speed: float) -> None:
    """A tone that is played faster is higher by as much, and the window is full of it."""
    tone = (0.1 * np.sin(2 * np.pi * 1_000.0 * np.arange(32_000) / 16_000)).astype(np.float32)
    clips = TrainingClips([tone], np.array([0]), ["tone"], n_labels=1, background=1)
    how = dataclasses.replace(QUIET, speed_probability=1.0, speed=(speed, speed))

    sound = WindowDrawer(clips, how, seed=0).example(0).sound

    assert len(sound) == 16_000
    assert np.abs(np.fft.rfft(sound)).argmax() == pytest.approx(1_000 * speed, abs=2)
    assert level_db(sound) == pytest.approx(level_db(tone), abs=0.2)


def test_every_change_keeps_shape_and_range(clips: TrainingClips) -> None:
    """Whatever is done to a window, the network can take it."""
    drawer = WindowDrawer(clips, Augmentation(), seed=4)

    for index in range(40):
        window = drawer.example(index % 3).window
        assert window.shape == (FRONT_END.n_frames, FRONT_END.n_mels)
        assert window.dtype == np.float32
        assert FRONT_END.level_min_db <= window.min() <= window.max() <= FRONT_END.level_max_db
