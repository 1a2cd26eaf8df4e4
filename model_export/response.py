"""How much of a sound a window must hold before its likelihood has risen half-way: measured, not assumed.

In: an `agent.inference.Classifier` and labelled clips. Out: the two numbers that the card gives to the event stage, so
that onsets and offsets are placed where the sound begins and ends, not where a window does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agent.frontend import FrontEnd
from agent.inference import Classifier
from agent.model_card import FrontEndNumbers
from agent.values import AudioBlock, FloatArray
from model_export import noise
from model_export.clips import LABELS, Clip
from model_export.features import read_mono

GROUND_S = 2.0
MIN_CLIP_S = 1.5
SNR_DB = 20.0
STEP_S = 0.05


@dataclass(frozen=True, slots=True)
class Response:
    """Half-way points, in seconds of sound inside the window; medians over the clips.

    Attributes:
        onset_s: how much of a beginning sound is in the window when the likelihood has risen half-way.
        offset_s: how much of an ending sound is still in the window when it has fallen half-way.
        n_clips: clips whose likelihood rose and fell clearly.
    """

    onset_s: float
    offset_s: float
    n_clips: int


def measure_response(
    classifier: Classifier, numbers: FrontEndNumbers, clips: Sequence[Clip], *, n_clips: int, seed: int
) -> Response:
    """Splice clips into pink noise and see when the likelihood of their label rises and falls."""
    rng = np.random.default_rng(seed)
    onsets, offsets = [], []
    for index in rng.permutation(len(clips))[:n_clips]:
        samples, rate = read_mono(clips[index].file)
        if len(samples) < MIN_CLIP_S * rate:
            continue
        likelihoods = _likelihoods(classifier, numbers, _spliced(samples, rate, rng), rate)
        track = likelihoods[:, LABELS.index(clips[index].label)]
        half = track.max() / 2
        high = np.flatnonzero(track >= half)
        if track.max() < 0.6 or high[0] == 0 or high[-1] == len(track) - 1:
            continue
        window_end_s = high[0] * STEP_S + numbers.window_s
        onsets.append(window_end_s - GROUND_S)
        offsets.append(GROUND_S + len(samples) / rate - high[-1] * STEP_S)
    if not onsets:
        return Response(numbers.window_s / 2, numbers.window_s / 2, 0)
    onset_s, offset_s = (float(np.clip(np.median(values), 0.0, numbers.window_s)) for values in (onsets, offsets))
    return Response(round(onset_s, 3), round(offset_s, 3), len(onsets))


def _spliced(samples: FloatArray, rate: int, rng: np.random.Generator) -> FloatArray:
    ground = noise.coloured("pink", len(samples) + 2 * round(GROUND_S * rate), rng)
    ground *= np.sqrt(np.mean(samples**2)) * 10.0 ** (-SNR_DB / 20.0)
    start = round(GROUND_S * rate)
    ground[start : start + len(samples)] += samples
    return ground


def _likelihoods(classifier: Classifier, numbers: FrontEndNumbers, samples: FloatArray, rate: int) -> FloatArray:
    """float32 (n_windows, n_labels), a window each `STEP_S`."""
    front_end = FrontEnd(numbers, capture_rate_hz=rate, window_hop_s=STEP_S)
    return np.stack([classifier.predict(window).likelihoods for window in front_end.push(AudioBlock(samples, 0))])
