"""Scenes as a model hears them: likelihoods over time, and the events that rules make of them.

In: a scene's sound and a model folder. Out: a `Track`, computed once by the agent's own front end and inference; and,
by the agent's own aggregation and detector, the events of any rules, of many rules for each label in one pass. Nothing
here takes the likelihoods of a window to sum to 1.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agent import pipeline
from agent.aggregation import Aggregator
from agent.config import InferenceConfig
from agent.errors import RecordingError
from agent.events import EventDetector
from agent.frontend import FrontEnd
from agent.inference import Classifier
from agent.model_card import EventCard, EventNumbers, ModelCard, ModelFolder, event_rules
from agent.values import AudioBlock, EventRule, FloatArray, Prediction, Segment
from agent.wavfile import open_recording
from model_export.clips import Clip
from model_export.scenes import Scene, SceneFile, Sounding, read_scenes
from model_export.soundscapes import SAMPLE_RATE_HZ, Soundscape, soundscapes

log = logging.getLogger(__name__)

WINDOW_HOP_S = InferenceConfig().window_hop_s
UPDATE_INTERVAL_S = 3600.0  # nobody listens to updates here
NOTHING_KNOWN = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """What a model makes of each window of a scene.

    Attributes:
        scene: what is true of it.
        labels: of the likelihoods.
        duration_s: of the scene.
        sample_rate_hz: in which the places of windows are counted.
        predictions: one for each window, without the embedding.
    """

    scene: Scene
    labels: tuple[str, ...]
    duration_s: float
    sample_rate_hz: int
    predictions: tuple[Prediction, ...]

    def segments(self, columns: Sequence[int], spans_s: Sequence[float]) -> Iterator[Segment]:
        """The likelihoods of these columns, each summed over its span, as the agent does."""
        aggregator = Aggregator(spans_s=spans_s, window_hop_s=WINDOW_HOP_S)
        for one in self.predictions:
            chosen = Prediction(one.likelihoods[columns], one.embedding, one.first_sample, one.n_samples)
            yield from aggregator.push(chosen)


class Hears(Protocol):
    """What hears scenes: a model of ours, or a peer."""

    labels: tuple[str, ...]

    def hear(self, soundscape: Soundscape) -> Track:
        """The track of a scene that was just made."""

    def hear_file(self, scene_file: SceneFile) -> Track:
        """The track of a scene in a file."""


class Listener:
    """A model that hears scenes.

    Args:
        model: the folder.
    """

    def __init__(self, model: ModelFolder) -> None:
        self._card = model.card
        self.labels = model.card.labels
        self._classifier = Classifier(model, streaming=model.card.streaming is not None)

    def hear(self, soundscape: Soundscape) -> Track:
        """The track of a scene that was just made."""
        return self._track(soundscape.scene, [AudioBlock(soundscape.samples, 0)], SAMPLE_RATE_HZ)

    def hear_file(self, scene_file: SceneFile) -> Track:
        """The track of a scene in a file.

        Raises:
            RecordingError: it cannot be read, or holds no sound.
        """
        with open_recording(scene_file.file) as recording:
            track = self._track(scene_file.scene, recording.blocks(), recording.sample_rate_hz)
        if not track.predictions:
            raise RecordingError(recording.problem or f"{scene_file.file}: holds no samples")
        if recording.problem:
            log.warning("%s", recording.problem)
        return track

    def _track(self, scene: Scene, blocks: Iterable[AudioBlock], rate_hz: int) -> Track:
        front_end = FrontEnd(self._card.front_end, capture_rate_hz=rate_hz, window_hop_s=WINDOW_HOP_S)
        n_samples = 0

        def counted() -> Iterable[AudioBlock]:
            nonlocal n_samples
            for block in blocks:
                n_samples += len(block.samples)
                yield block

        predictions = tuple(
            Prediction(one.likelihoods, NOTHING_KNOWN, one.first_sample, one.n_samples)
            for one in pipeline.predictions(counted(), front_end, self._classifier)
        )
        return Track(scene, self._card.labels, n_samples / rate_hz, rate_hz, predictions)


def hear_folder(listener: Hears, folder: Path, labels: Sequence[str]) -> list[Track]:
    """The tracks of all scenes in a folder.

    Raises:
        UsageError: a scene has no labels, or others than these.
        RecordingError: no scenes, or one that cannot be read.
    """
    return list(_told(map(listener.hear_file, read_scenes(folder, labels))))


def hear_made(listeners: Mapping[int, Hears], clips: Sequence[Clip], *, hours: float, seed: int) -> list[Track]:
    """The tracks of scenes that are made and forgotten: of each fold, by the listener that has not heard it.

    Raises:
        UsageError: a fold has no clips.
    """
    made = soundscapes(clips, folds=sorted(listeners), hours=hours, seed=seed)
    return list(_told(listeners[one.scene.fold or 0].hear(one) for one in made))


def _told(tracks: Iterable[Track]) -> Iterator[Track]:
    for number, track in enumerate(tracks, start=1):
        yield track
        if number % 30 == 0:
            log.info("scenes.heard scenes=%d newest=%s", number, track.scene.name)


def rules_of(card: ModelCard) -> dict[str, EventRule]:
    """The card's rule for each label but the background."""
    rules = event_rules(card.events, card.labels, EventNumbers(), {})
    return {label: rule for label, rule in rules.items() if label != card.background_label}


def at_threshold(rule: EventRule, on: float) -> EventRule:
    """The rule with another `on`, and `off` in proportion."""
    return replace(rule, on=on, off=on * rule.off / rule.on)


def events_of(track: Track, rules: Mapping[str, EventRule], events: EventCard) -> list[Sounding]:
    """The events of a track by one rule for each label, as the agent tells them."""
    per_label = {label: [rule] for label, rule in rules.items()}
    found = events_of_candidates(track, per_label, events)
    return sorted(event for (events_of_rule,) in found.values() for event in events_of_rule)


def events_of_candidates(
    track: Track, rules: Mapping[str, Sequence[EventRule]], events: EventCard
) -> dict[str, list[list[Sounding]]]:
    """The events of a track by each of several rules for each label, in one pass.

    The agent's aggregation and detector are told one label for each rule; rules that the likelihoods of no window reach
    have no events.

    Args:
        track: the scene.
        rules: the candidates for each label.
        events: the responses of the model.
    """
    found: dict[str, list[list[Sounding]]] = {label: [[] for _ in of_label] for label, of_label in rules.items()}
    peaks = np.max([one.likelihoods for one in track.predictions], axis=0, initial=0.0)  # (n_labels,)
    asked = [
        (label, place, index)
        for label, of_label in rules.items()
        for index in (track.labels.index(label),)
        for place, rule in enumerate(of_label)
        if peaks[index] >= rule.on
    ]
    if not asked:
        return found
    detector = EventDetector(
        labels=[str(number) for number in range(len(asked))],
        rules={str(number): rules[label][place] for number, (label, place, _) in enumerate(asked)},
        sample_rate_hz=track.sample_rate_hz,
        onset_response_s=events.onset_response_s,
        offset_response_s=events.offset_response_s,
        update_interval_s=UPDATE_INTERVAL_S,
    )
    columns = [index for _, _, index in asked]
    segments = track.segments(columns, [rules[label][place].span_s for label, place, _ in asked])
    told = [event for segment in segments for event in detector.push(segment)]
    for event in (*told, *detector.flush("end_of_stream")):
        if event.offset is not None:
            label, place, _ = asked[int(event.label)]
            onset_s, offset_s = (at / track.sample_rate_hz for at in (event.onset, event.offset))
            found[label][place].append(Sounding(onset_s, offset_s, label))
    return found


def score_table(track: Track, spans_s: Mapping[str, float]) -> tuple[NDArray[np.float64], FloatArray]:
    """The summed likelihoods as scores of gapless stretches of the scene, for measures without a threshold.

    A stretch lies around the middle of each window. A sum stands for the moment in the middle of what it was taken
    over: each label has in each stretch the sum whose middle is nearest to that of the stretch.

    Args:
        track: the scene.
        spans_s: of the labels that are asked for, what their likelihoods are summed over.

    Returns:
        float64 (n + 1,), where the stretches begin and the last one ends, in seconds; float32 (n, n_labels).
    """
    columns = [track.labels.index(label) for label in spans_s]
    segments = list(track.segments(columns, list(spans_s.values())))
    ends = np.array([segment.offset for segment in segments])  # (n,)
    middles = (np.array([segment.newest_onset for segment in segments]) + ends) / 2
    middles_of_sums = (np.stack([segment.onsets for segment in segments]) + ends[:, None]) / 2  # (n, n_labels)
    nearest = [_nearest(middles, of_label) for of_label in middles_of_sums.T]
    sums = np.stack([segment.likelihoods for segment in segments])
    scores = np.stack([sums[places, column] for column, places in enumerate(nearest)], axis=1)
    edges = np.concatenate([[0.0], (middles[:-1] + middles[1:]) / 2 / track.sample_rate_hz, [track.duration_s]])
    return np.round(edges, 6), scores


def _nearest(moments: NDArray[np.float64], among: NDArray[np.float64]) -> NDArray[np.intp]:
    """For each moment the place of the nearest of others, which rise; of two as near, the earlier."""
    return np.searchsorted((among[:-1] + among[1:]) / 2, moments, side="left")
