"""Labelled recordings and honest splits."""

import csv
from pathlib import Path

import pytest

from agent.errors import UsageError
from model_export.clips import LABELS, Clip, esc10, hold_out_fold, split_by_recording, urbansound8k


def test_a_data_set_is_read_from_one_metadata_file(data_sets: tuple[Path, Path]) -> None:
    """Each clip has a file that exists, a label of ours, its fold and its recording."""
    clips = urbansound8k(data_sets[0]) + esc10(data_sets[1])

    assert len(clips) == 24 + 4  # the rooster stands for no label of ours
    assert {clip.label for clip in clips} == {"siren", "jackhammer", "dog_bark", "background"}
    assert all(clip.file.is_file() and clip.label in LABELS for clip in clips)


def test_published_layouts_are_read_as_they_are(tmp_path: Path) -> None:
    """A user points at UrbanSound8K and ESC-50 as they were downloaded."""
    published = {
        "metadata/UrbanSound8K.csv": {"slice_file_name": "7-1-0-0.wav", "fsID": "7", "fold": "4", "class": "car_horn"},
        "meta/esc50.csv": {
            "filename": "1-9-A-0.wav",
            "fold": "1",
            "category": "dog",
            "esc10": "True",
            "src_file": "9",
        },
    }
    for name, row in published.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerow(row)

    assert urbansound8k(tmp_path) == [
        Clip(tmp_path / "audio" / "fold4" / "7-1-0-0.wav", "car_horn", "us8k", 4, "7"),
    ]
    assert esc10(tmp_path) == [Clip(tmp_path / "audio" / "1-9-A-0.wav", "dog_bark", "esc10", 1, "9")]


@pytest.mark.parametrize(("read", "option"), [(urbansound8k, "--us8k"), (esc10, "--esc10")])
def test_a_folder_without_metadata_is_named(tmp_path: Path, read: object, option: str) -> None:
    """The message says which option points at the wrong folder."""
    assert callable(read)
    with pytest.raises(UsageError, match=f"{option} {tmp_path}"):
        read(tmp_path)


def test_no_recording_of_the_test_fold_is_heard_in_training(data_sets: tuple[Path, Path]) -> None:
    """A recording that stands in two folds leaves training when one of them is the test."""
    train, test = hold_out_fold(urbansound8k(data_sets[0]), 1)

    assert {clip.fold for clip in test} == {1}
    assert "both" in {clip.recording for clip in test}
    assert {clip.recording for clip in train}.isdisjoint({clip.recording for clip in test})


def test_validation_is_split_by_recording(data_sets: tuple[Path, Path]) -> None:
    """All clips of a label's recording stand on the same side."""
    clips = urbansound8k(data_sets[0])

    train, validation = split_by_recording(clips, fraction=0.3, seed=1)

    assert validation
    assert sorted(map(repr, train + validation)) == sorted(map(repr, clips))
    sides = [{(clip.label, clip.recording) for clip in side} for side in (train, validation)]
    assert sides[0].isdisjoint(sides[1])
