"""Training sees what the node sees."""

from pathlib import Path

import numpy as np

from agent.frontend import FrontEnd
from agent.values import AudioBlock
from model_export.clips import urbansound8k
from model_export.features import (
    FRONT_END,
    all_windows,
    at_card_level,
    frames_of,
    frames_of_clips,
    read_mono,
    windows_of,
)


def test_training_windows_are_the_nodes_windows(data_sets: tuple[Path, Path]) -> None:
    """Cut from deep frames and clipped, a training window is the front end's own, to within float rounding."""
    samples, rate = read_mono(data_sets[0] / "siren-1.wav")
    node = FrontEnd(FRONT_END, capture_rate_hz=rate, window_hop_s=0.1)
    heard = np.stack([window.log_mel for window in (*node.push(AudioBlock(samples, 0)), *node.flush())])

    trained_on = windows_of(frames_of(samples, rate))

    np.testing.assert_allclose(trained_on, heard, atol=1e-3)


def test_a_short_clip_gives_one_window(data_sets: tuple[Path, Path]) -> None:
    """A clip of 0.6 s is padded to one window, its end at the floor of the card."""
    clips = [clip for clip in urbansound8k(data_sets[0]) if clip.file.name == "siren-0.wav"]

    windows, counts = all_windows(frames_of_clips(clips))

    assert counts == [1]
    assert windows.shape == (1, FRONT_END.n_frames, FRONT_END.n_mels)
    assert (windows[0, -10:] == FRONT_END.level_min_db).all()


def test_levels_are_clipped_as_the_card_says() -> None:
    """What gain pushes out of the card's range ends at its edge."""
    levels = np.array([[-200.0, -50.0, 30.0]], np.float32)

    np.testing.assert_array_equal(at_card_level(levels), [[FRONT_END.level_min_db, -50.0, FRONT_END.level_max_db]])
