"""Streets made of recordings."""

import json
from collections import defaultdict
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile

from agent.errors import UsageError
from model_export.clips import BACKGROUND, Clip, esc10, esc10_strangers, urbansound8k
from model_export.mixing import loudness_db
from model_export.scenes import read_scenes
from model_export.soundscapes import (
    N_GROUPS,
    SAMPLE_RATE_HZ,
    Soundscape,
    Street,
    soundscapes,
    write_soundscape,
)

STREET = Street(scene_s=20.0, ground_s=(5.0, 20.0), stretch_s=(1.0, 8.0))
ONE_EACH = N_GROUPS * STREET.scene_s / 3600.0  # hours: one scene of each group of a fold


@pytest.fixture(scope="module")
def clips(data_sets: tuple[Path, Path]) -> list[Clip]:
    strangers = {clip.file for clip in esc10_strangers(data_sets[1])}
    return [clip for clip in urbansound8k(data_sets[0]) + esc10(data_sets[1]) if clip.file not in strangers]


@pytest.fixture(scope="module")
def made(clips: list[Clip]) -> list[Soundscape]:
    return list(soundscapes(clips, folds=[1], hours=4 * ONE_EACH, seed=1, street=STREET))


def test_the_same_seed_gives_the_same_bytes(clips: list[Clip], tmp_path: Path) -> None:
    """Sound, labels and record are the same to the last byte, and another seed gives others."""
    for folder, seed in (("one", 5), ("again", 5), ("other", 6)):
        for soundscape in soundscapes(clips, folds=[1, 2], hours=2 * ONE_EACH, seed=seed, street=STREET):
            write_soundscape(soundscape, tmp_path / folder)

    bytes_of = {
        folder: {file.name: file.read_bytes() for file in (tmp_path / folder).iterdir()}
        for folder in ("one", "again", "other")
    }
    assert len(bytes_of["one"]) == 3 * 2 * N_GROUPS  # three files each
    assert bytes_of["one"] == bytes_of["again"]
    assert bytes_of["one"].keys() == bytes_of["other"].keys()
    flac = "fold1-1-000.flac"
    assert bytes_of["one"][flac] != bytes_of["other"][flac]


def test_more_hours_are_the_same_scenes_and_more(clips: list[Clip], made: list[Soundscape]) -> None:
    """A scene depends on its own number only."""
    fewer = list(soundscapes(clips, folds=[1], hours=ONE_EACH, seed=1, street=STREET))

    assert len(fewer) == N_GROUPS
    for one, same in zip(fewer, made, strict=False):
        assert one.scene == same.scene
        np.testing.assert_array_equal(one.samples, same.samples)


def test_groups_and_folds_have_no_recording_in_common(clips: list[Clip], made: list[Soundscape]) -> None:
    """What is chosen on one group has heard nothing of another; clips of other folds are not used."""
    heard: dict[str, set[str]] = defaultdict(set)
    for soundscape in made:
        record = soundscape.made_of
        heard[record["group"]] |= {sound["recording"] for sound in record["sounds"]}
        heard[record["group"]] |= {layer["recording"] for layers in record["ground"] for layer in layers} - {"noise"}

    assert len(heard) == N_GROUPS
    assert all(not one & other for one, other in combinations(heard.values(), 2))
    assert set().union(*heard.values()) <= {clip.recording for clip in clips if clip.fold == 1}


def test_every_second_scene_has_no_event(made: list[Soundscape]) -> None:
    """Silence in the list is what false alarms are counted in; the other scenes have events, of our labels only."""
    for soundscape in made:
        is_event_free = soundscape.scene.name.endswith(("001", "003"))
        labels = {one.label for one in soundscape.scene.soundings}

        assert bool(labels) is not is_event_free
        assert labels <= {"siren", "jackhammer", "dog_bark"}
        assert BACKGROUND not in labels


def test_never_more_than_two_at_a_time(made: list[Soundscape]) -> None:
    """Two sounds may overlap, but not two of one label: they would be one."""
    for soundscape in made:
        soundings = soundscape.scene.soundings
        for one in soundings:
            assert 0.0 <= one.onset_s < one.offset_s <= STREET.scene_s
            sounding = [other for other in soundings if other.onset_s <= one.onset_s < other.offset_s]
            assert len(sounding) <= 2
            assert len({other.label for other in sounding}) == len(sounding)


def test_labels_say_when_it_sounds(clips: list[Clip]) -> None:
    """Over a quiet ground, the first moment of a label is much louder than the moment before it."""
    street = replace(STREET, snr_db=(30.0, 30.0), noise_only=1.0, overlap_probability=0.0, ground_change_db=0.0)
    rises = []
    for soundscape in soundscapes(clips, folds=[1], hours=ONE_EACH, seed=2, street=street):
        for one in soundscape.scene.soundings:
            at, moment = round(one.onset_s * SAMPLE_RATE_HZ), SAMPLE_RATE_HZ // 10
            before, after = soundscape.samples[max(0, at - moment) : at], soundscape.samples[at : at + moment]
            if len(before) == moment:
                rises.append(loudness_db(after, SAMPLE_RATE_HZ) - loudness_db(before, SAMPLE_RATE_HZ))

    assert len(rises) > 4
    assert np.mean(np.array(rises) > 10.0) > 0.9


def test_sustained_sounds_are_of_any_length(made: list[Soundscape]) -> None:
    """A siren may go on for longer than any of its clips; a bark may not."""
    lengths: dict[str, list[float]] = defaultdict(list)
    for soundscape in made:
        for one in soundscape.scene.soundings:
            lengths[one.label].append(one.offset_s - one.onset_s)

    assert max(lengths["siren"] + lengths["jackhammer"]) > 3.0
    assert max(lengths["dog_bark"]) < 1.7


def test_faint_clips_are_a_last_resort(clips: list[Clip]) -> None:
    """A clip whose sound lies in the background is used only where a label has too few recordings."""
    rare = Clip(clips[0].file, "siren", "us8k", 1, "faint", is_faint=True)
    plenty = [Clip(clips[0].file, "siren", "us8k", 1, str(number)) for number in range(N_GROUPS)]

    def heard(of: list[Clip]) -> set[str]:
        found = soundscapes(of, folds=[1], hours=ONE_EACH, seed=0, street=STREET)
        return {sound["recording"] for one in found for sound in one.made_of["sounds"]}

    assert "faint" not in heard([rare, *plenty])
    assert "faint" in heard([rare, *plenty[:3]])


def test_strangers_sound_and_are_not_labelled(clips: list[Clip], data_sets: tuple[Path, Path]) -> None:
    """A rooster is none of the labels; the record says that it was there."""
    strangers = [Clip(clip.file, clip.label, clip.dataset, 1, clip.recording) for clip in esc10_strangers(data_sets[1])]

    street = replace(STREET, stranger_probability=1.0)
    made = list(soundscapes(clips, strangers=strangers, folds=[1], hours=ONE_EACH, seed=0, street=street))

    sounds = [sound["label"] for one in made for sound in one.made_of["sounds"]]
    assert sounds.count("rooster") == 1
    assert "rooster" not in {one.label for soundscape in made for one in soundscape.scene.soundings}


def test_what_is_written_is_what_was_made(made: list[Soundscape], tmp_path: Path) -> None:
    """The file holds the same samples to the last bit, the table the same labels, the record how it was made."""
    write_soundscape(made[0], tmp_path / "scenes")

    (found,) = read_scenes(tmp_path / "scenes", ("siren", "jackhammer", "dog_bark"))
    samples, rate_hz = soundfile.read(found.file, dtype="float32")
    record = json.loads(found.file.with_suffix(".json").read_text())
    assert found.scene == made[0].scene
    assert rate_hz == SAMPLE_RATE_HZ
    np.testing.assert_array_equal(samples, made[0].samples)
    assert [sound["onset_s"] for sound in record["sounds"]] == [one.onset_s for one in found.scene.soundings]


def test_a_fold_without_clips_is_named(clips: list[Clip]) -> None:
    """Which fold has nothing to make a street of."""
    with pytest.raises(UsageError, match=r"--folds 7: no clip of a street sound"):
        list(soundscapes(clips, folds=[7], hours=0.1, seed=0))


def test_a_folder_that_cannot_be_written_is_named(made: list[Soundscape], tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("")

    with pytest.raises(UsageError, match=f"--out {tmp_path / 'file'}: cannot be written"):
        write_soundscape(made[0], tmp_path / "file")
