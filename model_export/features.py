"""Clips to log-mel frames, by the agent's own front end, and to sounds at its rate.

In: clips. Out: for each, float32 (n_frames, n_mels), one frame each hop, from the clip's first sample on. Training
keeps levels far below the card's floor, so that gain can be changed afterwards and then clipped as the card says.
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import soxr

from agent.errors import RecordingError
from agent.frontend import FrontEnd
from agent.model_card import FrontEndNumbers
from agent.values import AudioBlock, FloatArray
from agent.wavfile import open_recording
from model_export.clips import Clip

log = logging.getLogger(__name__)

FRONT_END = FrontEndNumbers(
    sample_rate_hz=16_000,
    window_length_samples=16_000,
    hop_length_samples=200,  # 12.5 ms: eight frames are the window hop of 0.1 s, and the network's step in time
    taper_length_samples=960,  # with this hop, 76 frames lie wholly inside 1 s and give exactly two final columns
    fft_length=1024,
    n_mels=64,
    mel_min_hz=50.0,
    mel_max_hz=8_000.0,
    mel_scale="htk",
    level_min_db=-110.0,
    level_max_db=0.0,
)
DEEP = FRONT_END.model_copy(update={"level_min_db": -140.0, "level_max_db": 20.0})


def read_mono(file: Path) -> tuple[FloatArray, int]:
    """A whole short clip: float32 (n,) in [-1, 1], mean of the channels, and its rate in hertz.

    Raises:
        RecordingError: the file is not a recording that can be read, or holds no sound.
    """
    with open_recording(file) as recording:
        blocks = [block.samples for block in recording.blocks()]
    if not blocks:
        raise RecordingError(recording.problem or f"{file}: holds no samples")
    if recording.problem:
        log.warning("%s", recording.problem)
    return np.concatenate(blocks), recording.sample_rate_hz


def sound_of(clip: Clip) -> FloatArray:
    """A whole short clip at the front end's rate; one shorter than a window is padded with silence to one window.

    Returns:
        float32 (n,), in [-1, 1].
    """
    samples, rate_hz = read_mono(clip.file)
    if rate_hz != FRONT_END.sample_rate_hz:
        samples = soxr.resample(samples, rate_hz, FRONT_END.sample_rate_hz)
    padded: FloatArray = np.pad(samples, (0, max(0, FRONT_END.window_length_samples - len(samples))))
    return padded


def frames_of(samples: FloatArray, sample_rate_hz: int, numbers: FrontEndNumbers = DEEP) -> FloatArray:
    """Log-mel frames of a sound; one shorter than a window is padded with silence to one window.

    Returns:
        float32 (n_frames, n_mels), decibels relative to a full-scale sine.
    """
    frame_hop_s = numbers.hop_length_samples / numbers.sample_rate_hz
    front_end = FrontEnd(numbers, capture_rate_hz=sample_rate_hz, window_hop_s=frame_hop_s)
    windows = [*front_end.push(AudioBlock(samples, 0)), *front_end.flush()]
    return np.concatenate([windows[0].log_mel, *(window.log_mel[-1:] for window in windows[1:])])


def frames_of_clips(clips: Sequence[Clip]) -> list[FloatArray]:
    """Log-mel frames of each clip, in order."""
    return [frames_of(*read_mono(clip.file)) for clip in clips]


def at_card_level(log_mel: FloatArray, numbers: FrontEndNumbers = FRONT_END) -> FloatArray:
    """Clip deep levels to the card's range: what the node sees."""
    return np.clip(log_mel, numbers.level_min_db, numbers.level_max_db)


def windows_of(frames: FloatArray, *, frames_per_hop: int = 8) -> FloatArray:
    """Every window of a clip at the card's levels.

    Returns:
        float32 (n_windows, n_frames, n_mels).
    """
    starts = range(0, len(frames) - FRONT_END.n_frames + 1, frames_per_hop)
    return at_card_level(np.stack([frames[start : start + FRONT_END.n_frames] for start in starts]))


def all_windows(clips_frames: Iterable[FloatArray], *, frames_per_hop: int = 8) -> tuple[FloatArray, list[int]]:
    """The windows of many clips in one array, and how many each clip has."""
    per_clip = [windows_of(frames, frames_per_hop=frames_per_hop) for frames in clips_frames]
    return np.concatenate(per_clip), [len(windows) for windows in per_clip]
