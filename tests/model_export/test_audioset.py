"""YAMNet with its own classes."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from agent.errors import ModelError, RecordingError
from agent.model_card import DEFAULT_MODEL, load_model_folder
from model_export.audioset import AUDIOSET, N_CLASSES, RESPONSE_S, YamnetListener
from model_export.clips import URBANSOUND8K_LABELS, urbansound8k
from model_export.features import sound_of
from model_export.scenes import Scene, SceneFile, Sounding
from tests.conftest import SHARED_DATA


@pytest.fixture(scope="module")
def yamnet(recordings: Path) -> YamnetListener:
    file = SHARED_DATA.parent / "models" / "yamnet.tflite"
    if not file.is_file():
        pytest.skip(f"no {file}")
    return YamnetListener(file)


def test_every_label_has_classes_and_no_class_has_two_labels() -> None:
    """The classes are YAMNet's; which label each stands for is not in doubt."""
    classes = [number for of_label in AUDIOSET.values() for number in of_label]

    assert tuple(AUDIOSET) == URBANSOUND8K_LABELS
    assert len(classes) == len(set(classes))
    assert all(0 <= number < N_CLASSES for number in classes)


@pytest.mark.parametrize("label", ["car_horn", "dog_bark", "gun_shot", "siren", "street_music"])
def test_its_classes_are_the_ones_we_take_them_for(yamnet: YamnetListener, recordings: Path, label: str) -> None:
    """On most clips of a label the likelihood of this label is the largest."""
    clips = [clip for clip in urbansound8k(recordings / "urbansound8k") if clip.label == label and not clip.is_faint]
    first_of_recording = list({clip.recording: clip for clip in clips}.values())[:6]

    tracks = [yamnet.hear_file(SceneFile(Scene("x", None, "x", ()), clip.file)) for clip in first_of_recording]

    largest = [np.max([one.likelihoods for one in track.predictions], axis=0).argmax() for track in tracks]
    assert [yamnet.labels[index] for index in largest].count(label) >= 4


def test_a_track_covers_the_scene(yamnet: YamnetListener, recordings: Path) -> None:
    """One window each 0.1 s, the likelihoods within 0 and 1."""
    clip = urbansound8k(recordings / "urbansound8k")[0]
    scene = Scene("x", None, "x", (Sounding(0.0, 1.0, "siren"),))

    track = yamnet.hear_file(SceneFile(scene, clip.file))

    assert track.scene is scene
    assert track.duration_s == pytest.approx(len(sound_of(clip)) / 16_000, abs=0.001)
    assert len(track.predictions) == 1 + int((track.duration_s - 0.975) / 0.1)
    assert all(0.0 <= one.likelihoods.min() <= one.likelihoods.max() <= 1.0 for one in track.predictions)


def test_a_scene_of_which_no_sound_is_left_is_named(yamnet: YamnetListener, tmp_path: Path) -> None:
    """Its header alone opens, and nothing comes."""
    file = tmp_path / "cut.flac"
    soundfile.write(file, np.random.default_rng(0).uniform(-0.1, 0.1, 4 * 16_000), 16_000)
    file.write_bytes(file.read_bytes()[:4_500])

    with pytest.raises(RecordingError, match=f"{file}: cannot be read beyond 0"):
        yamnet.hear_file(SceneFile(Scene("x", None, "x", ()), file))


def test_it_has_responses_of_its_own(yamnet: YamnetListener) -> None:
    """Span and default are those of the model beside it; what was set for single labels of that one is not."""
    events = load_model_folder(DEFAULT_MODEL).card.events

    its_own = yamnet.event_card(events)

    assert its_own.default == events.default
    assert (its_own.onset_response_s, its_own.offset_response_s, its_own.classes) == (RESPONSE_S, RESPONSE_S, {})


def test_another_network_is_refused(tmp_path: Path) -> None:
    """What is not YAMNet, or not TFLite at all, is named."""
    with pytest.raises(ModelError, match=r"embedding\.tflite: gives 240 scores, expected YAMNet's 521"):
        YamnetListener(DEFAULT_MODEL / "embedding.tflite")
    (tmp_path / "x.tflite").write_text("nothing")
    with pytest.raises(ModelError, match=r"x\.tflite: not a TFLite file"):
        YamnetListener(tmp_path / "x.tflite")
