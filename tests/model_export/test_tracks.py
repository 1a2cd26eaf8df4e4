"""Scenes as a model hears them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from agent.app import Judge
from agent.config import Config
from agent.errors import RecordingError
from agent.model_card import DEFAULT_MODEL, load_model_folder
from agent.replay import replay
from agent.stop import Stop
from agent.values import SoundEvent
from agent.wavfile import open_recording
from demo.scene import SAMPLE_RATE_HZ as DEMO_RATE_HZ
from demo.scene import Sounding as Played
from demo.scene import render
from model_export.clips import urbansound8k
from model_export.scenes import Scene, SceneFile, Sounding
from model_export.soundscapes import SAMPLE_RATE_HZ, Soundscape
from model_export.tracks import (
    Listener,
    at_threshold,
    events_of,
    events_of_candidates,
    hear_folder,
    hear_made,
    rules_of,
    score_table,
)
from tests.model_export.heard import EVENTS, LABELS, RULE, heard

SCENE = Scene("street", None, "street", (Sounding(1.0, 5.0, "siren"),))


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A siren and a jackhammer by formula, in a file with its labels."""
    file = tmp_path_factory.mktemp("street") / "street.wav"
    played = (Played("siren", 1.0, 4.0, -20.0), Played("jackhammer", 7.0, 4.0, -20.0))
    soundfile.write(file, render(played, 12.0), DEMO_RATE_HZ, subtype="FLOAT")
    file.with_suffix(".tsv").write_text("1.0\t5.0\tsiren\n")
    return file


def test_events_are_those_of_replay(street: Path) -> None:
    """Label, onset and offset of each event are as `urbansound replay` tells them."""
    model = load_model_folder(DEFAULT_MODEL)
    told: list[SoundEvent] = []
    with open_recording(street) as recording:
        replay(recording, Judge(Config()), told.append, stop=Stop())
    expected = sorted(
        (one.onset / DEMO_RATE_HZ, one.offset / DEMO_RATE_HZ, one.label) for one in told if one.offset is not None
    )

    track = Listener(model).hear_file(SceneFile(SCENE, street))

    found = events_of(track, rules_of(model.card), model.card.events)
    assert [(one.onset_s, one.offset_s, one.label) for one in found] == expected
    assert expected
    assert track.duration_s == pytest.approx(12.0)


def test_a_scene_is_heard_the_same_from_memory_and_from_a_file(tmp_path: Path) -> None:
    """What was just made need not be written to be heard."""
    samples = (np.round(render((Played("siren", 0.5, 2.0, -20.0),), 3.0) * 2**15) / 2**15).astype(np.float32)
    soundfile.write(tmp_path / "a.flac", samples, SAMPLE_RATE_HZ, subtype="PCM_16")
    (tmp_path / "a.tsv").write_text("")
    listener = Listener(load_model_folder(DEFAULT_MODEL))

    (from_file,) = hear_folder(listener, tmp_path, listener.labels)
    in_memory = listener.hear(Soundscape(SCENE, samples, {}))

    for one, other in zip(from_file.predictions, in_memory.predictions, strict=True):
        np.testing.assert_array_equal(one.likelihoods, other.likelihoods)


def test_scenes_of_a_fold_are_heard_by_its_own_listener(data_sets: tuple[Path, Path]) -> None:
    """The network that was trained without a fold hears the scenes of that fold, and no other does."""

    class Noting:
        labels = LABELS

        def __init__(self) -> None:
            self.names: list[str] = []

        def hear(self, soundscape: Soundscape) -> object:
            self.names.append(soundscape.scene.name)
            return heard(2.0, {})

        def hear_file(self, scene_file: SceneFile) -> object:
            raise AssertionError(scene_file)

    listeners = {1: Noting(), 2: Noting()}

    hear_made(listeners, urbansound8k(data_sets[0]), hours=0.001, seed=0)  # type: ignore[arg-type]

    for fold, listener in listeners.items():
        assert listener.names
        assert all(name.startswith(f"fold{fold}-") for name in listener.names)


def test_many_rules_in_one_pass_are_as_one_after_the_other() -> None:
    """Each candidate of each label tells the events that it would tell alone."""
    rng = np.random.default_rng(0)
    loud = {
        label: [(0.5 * n, 0.5 * n + 0.5, float(likelihood)) for n, likelihood in enumerate(rng.uniform(0, 1, 60))]
        for label in LABELS
    }
    track = heard(30.0, loud)
    rules = [
        replace(at_threshold(RULE, on), min_duration_s=duration_s, merge_gap_s=gap_s, span_s=span_s)
        for on in (0.2, 0.5, 0.8, 0.99)
        for duration_s in (0.0, 1.0)
        for gap_s in (0.0, 2.0)
        for span_s in (0.3, 1.0)
    ]

    together = events_of_candidates(track, dict.fromkeys(LABELS, rules), EVENTS)

    assert any(together["siren"])
    for place, rule in enumerate(rules):
        alone = events_of(track, dict.fromkeys(LABELS, rule), EVENTS)
        assert sorted(together["siren"][place] + together["dog_bark"][place]) == alone


def test_two_labels_may_be_sure_at_once() -> None:
    """A model whose likelihoods do not sum to 1 tells both sounds."""
    track = heard(10.0, {"siren": [(2.0, 6.0, 0.9)], "dog_bark": [(3.0, 5.0, 0.9)]})

    assert [one.label for one in events_of(track, dict.fromkeys(LABELS, RULE), EVENTS)] == ["siren", "dog_bark"]


def test_an_event_lies_where_the_likelihood_was() -> None:
    """A likelihood from 2 to 6 s is an event from 2 to 6 s, within a hop."""
    (event,) = events_of(heard(10.0, {"siren": [(2.0, 6.0, 0.9)]}), {"siren": RULE}, EVENTS)

    assert event.onset_s == pytest.approx(2.0, abs=0.11)
    assert event.offset_s == pytest.approx(6.0, abs=0.11)


def test_scores_cover_the_scene_without_gaps() -> None:
    """Each sum stands in the middle of what it was taken over; first and last reach to the ends."""
    track = heard(10.0, {"siren": [(2.0, 6.0, 0.9)]})

    edges, scores = score_table(track, {"siren": 0.3})

    assert len(edges) == len(scores) + 1
    assert (edges[0], edges[-1]) == (0.0, 10.0)
    assert (np.diff(edges) > 0.0).all()
    middles = (edges[:-1] + edges[1:]) / 2
    high = middles[scores[:, 0] > 0.45]
    assert high.min() == pytest.approx(2.0, abs=0.2)
    assert high.max() == pytest.approx(6.0, abs=0.2)


@pytest.mark.parametrize("kept", [0.5, 0.05])
def test_a_scene_that_was_cut_off_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: float) -> None:
    """A warning, or, where no sound is left, an error says which file is not whole."""
    file = tmp_path / "cut.flac"
    soundfile.write(file, render((Played("siren", 0.5, 2.0, -20.0),), 3.0), DEMO_RATE_HZ)
    file.write_bytes(file.read_bytes()[: round(kept * file.stat().st_size)])
    listener = Listener(load_model_folder(DEFAULT_MODEL))

    if kept > 0.1:
        assert 0.0 < listener.hear_file(SceneFile(SCENE, file)).duration_s < 3.0
        assert f"{file}: cannot be read beyond" in caplog.text
    else:
        with pytest.raises(RecordingError, match=f"{file}: cannot be read beyond 0"):
            listener.hear_file(SceneFile(SCENE, file))


def test_a_folder_without_scenes_is_named(tmp_path: Path) -> None:
    """Pointing at the wrong place is a usage error."""
    with pytest.raises(RecordingError, match=f"{tmp_path}: no recordings in this folder"):
        hear_folder(Listener(load_model_folder(DEFAULT_MODEL)), tmp_path, LABELS)
