"""Tracks written by hand, small enough to be checked in the head."""

from collections.abc import Mapping, Sequence

import numpy as np

from agent.model_card import EventCard, EventNumbers
from agent.values import EventRule, Prediction
from model_export.scenes import Scene, Sounding
from model_export.tracks import NOTHING_KNOWN, WINDOW_HOP_S, Track

LABELS = ("siren", "dog_bark")
RATE_HZ = 1_000
WINDOW_S = 1.0
# A window knows of a sound at once when it holds half of it.
EVENTS = EventCard(onset_response_s=0.5, offset_response_s=0.5, default=EventNumbers())
RULE = EventRule(on=0.5, off=0.3, min_duration_s=0.3, merge_gap_s=0.5, max_duration_s=60.0, span_s=0.3)


def heard(
    duration_s: float,
    loud: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    true: Sequence[Sounding] = (),
    name: str = "scene",
    fold: int | None = None,
    group: str | None = None,
    labels: Sequence[str] = LABELS,
) -> Track:
    """What a model would make of a scene.

    Args:
        duration_s: of the scene.
        loud: for each label, from when to when its likelihood is how large; 0 else.
        true: what sounds in it.
        name: of the scene.
        fold: of the scene.
        group: of the scene; its name if not given.
        labels: of the likelihoods.
    """
    predictions = []
    for number in range(round((duration_s - WINDOW_S) / WINDOW_HOP_S) + 1):
        start_s = number * WINDOW_HOP_S
        middle_s = start_s + WINDOW_S / 2
        likelihoods = np.zeros(len(labels), np.float32)
        for label, stretches in loud.items():
            for from_s, to_s, likelihood in stretches:
                if from_s <= middle_s < to_s:
                    likelihoods[labels.index(label)] = likelihood
        predictions.append(Prediction(likelihoods, NOTHING_KNOWN, round(start_s * RATE_HZ), round(WINDOW_S * RATE_HZ)))
    scene = Scene(name, fold, group or name, tuple(sorted(true)))
    return Track(scene, tuple(labels), duration_s, RATE_HZ, tuple(predictions))
