"""Gain, noise and backgrounds, tried on the model that comes with the agent."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from agent.errors import RecordingError
from agent.model_card import ModelFolder
from model_export import probe as probing
from model_export.clips import Clip, urbansound8k
from model_export.probe import GAINS_DB, LEVELS_DB, NOISES, Probe, drawn, probe, recordings_in


@pytest.fixture(scope="module")
def clips(data_sets: tuple[Path, Path]) -> list[Clip]:
    return urbansound8k(data_sets[0])[:3]


@pytest.fixture(scope="module")
def hiss(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one recording that is none of the classes."""
    folder = tmp_path_factory.mktemp("hiss")
    soundfile.write(folder / "a.wav", 0.01 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    return folder


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less noise, for the time."""
    monkeypatch.setattr(probing, "N_DRAWS", 1)
    monkeypatch.setattr(probing, "NOISE_S", 1.0)


@pytest.fixture
def found(model: ModelFolder, clips: list[Clip], hiss: Path, few_draws: None) -> Probe:
    return probe(model, clips, recordings_in(hiss))


def test_each_gain_each_noise_and_each_recording_is_tried(found: Probe, hiss: Path) -> None:
    """All levels of all noises, silence once, and recordings at each gain and as they are."""
    assert (found.model, found.clips, found.heard_before) == ("l3-edge-us8k 1", 3, 3)
    assert [one.gain_db for one in found.gains] == list(GAINS_DB)
    assert [(one.sound, one.level_db, one.gain_db) for one in found.grounds] == [
        ("silence", None, None),
        *((sound, level_db, None) for sound in NOISES for level_db in LEVELS_DB),
        *((hiss.name, None, gain_db) for gain_db in (-20.0, -10.0, 0.0, 10.0, 20.0)),
    ]
    for gain in found.gains:
        assert 0.0 <= gain.clips_changed <= 1.0
        assert 0.0 <= gain.windows_changed <= 1.0


def test_silence_is_background(found: Probe) -> None:
    """Nothing else wins, and nothing is told."""
    silence = found.grounds[0]

    assert (silence.windows, silence.as_background, silence.told, silence.otherwise) == (1, 1.0, 0.0, None)


@pytest.mark.usefixtures("few_draws")
def test_without_a_label_for_background_only_what_is_told_counts(model: ModelFolder) -> None:
    """A model of one's own classes may have none."""
    other = replace(model, card=model.card.model_copy(update={"background_label": None, "trained_on": None}))

    found = probe(other, [], {})

    assert {one.as_background for one in found.grounds} == {None}
    assert found.grounds[0].otherwise == "background"
    assert (found.gains, found.heard_before) == ([], None)


def test_clips_are_drawn_the_same_each_time(data_sets: tuple[Path, Path]) -> None:
    """Some of many, all of few."""
    clips = urbansound8k(data_sets[0])

    assert len(drawn(clips, 5)) == 5
    assert drawn(clips, 5) == drawn(clips, 5)
    assert drawn(clips, 1_000) == clips


def test_recordings_are_called_after_their_folder(tmp_path: Path) -> None:
    """Speech and music each have a folder; loose ones are called as the whole."""
    for name in ("speech/a/1.wav", "speech/2.wav", "music/3.wav", "4.wav"):
        (tmp_path / "place" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "place" / name).touch()

    sounds = recordings_in(tmp_path / "place")

    assert {sound: [file.name for file in files] for sound, files in sounds.items()} == {
        "speech": ["2.wav", "1.wav"],
        "music": ["3.wav"],
        "place": ["4.wav"],
    }


@pytest.mark.parametrize(("name", "message"), [("none", "no such folder"), ("", "no recordings in this folder")])
def test_a_folder_without_recordings_is_named(tmp_path: Path, name: str, message: str) -> None:
    """The message says which."""
    with pytest.raises(RecordingError, match=message):
        recordings_in(tmp_path / name)
