"""How much of a sound a window must hold."""

from pathlib import Path

import numpy as np
import pytest

from agent.inference import Classifier
from agent.values import FloatArray, Prediction, Window
from model_export.clips import LABELS, Clip, urbansound8k
from model_export.features import FRONT_END
from model_export.response import measure_response


class LoudnessJudge(Classifier):
    """Says `siren` as far as the window is loud: its response is known beforehand."""

    def __init__(self) -> None:
        """It needs no model."""

    def predict(self, window: Window) -> Prediction:
        """The fraction of frames that are loud."""
        loud = window.log_mel.max(axis=1) > -40.0
        likelihoods: FloatArray = np.zeros(len(LABELS), np.float32)
        likelihoods[LABELS.index("siren")] = loud.mean()
        return Prediction(likelihoods, likelihoods, window.first_sample, window.n_samples)


def test_a_judge_of_known_response_is_measured_right(data_sets: tuple[Path, Path]) -> None:
    """A network that rises in proportion to the sound in the window responds at half a window, both ways."""
    sirens: list[Clip] = [clip for clip in urbansound8k(data_sets[0]) if clip.label == "siren"]

    response = measure_response(LoudnessJudge(), FRONT_END, sirens, n_clips=8, seed=0)

    assert response.n_clips == 7  # one is too short to have a rise and a fall
    assert response.onset_s == pytest.approx(0.5, abs=0.03)  # less than the step
    assert response.offset_s == pytest.approx(0.5, abs=0.03)
