"""Training sees what the node sees."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from agent.errors import RecordingError
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


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """A FLAC file of 4 s that a full disk has cut off after 2."""
    file = tmp_path / "cut.flac"
    soundfile.write(file, np.random.default_rng(0).uniform(-0.1, 0.1, 4 * 16_000), 16_000)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return file


def test_a_clip_that_was_cut_off_is_told(cut: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is left of it is read, and a warning says which file is not whole."""
    samples, rate_hz = read_mono(cut)

    assert 0 < len(samples) < 3 * rate_hz
    assert f"{cut}: cannot be read beyond" in caplog.text


def test_a_clip_of_which_no_sound_is_left_is_named(cut: Path) -> None:
    """Its header alone opens, and nothing comes."""
    cut.write_bytes(cut.read_bytes()[:4_500])

    with pytest.raises(RecordingError, match=f"{cut}: cannot be read beyond 0"):
        read_mono(cut)


def test_levels_are_clipped_as_the_card_says() -> None:
    """What gain pushes out of the card's range ends at its edge."""
    levels = np.array([[-200.0, -50.0, 30.0]], np.float32)

    np.testing.assert_array_equal(at_card_level(levels), [[FRONT_END.level_min_db, -50.0, FRONT_END.level_max_db]])
