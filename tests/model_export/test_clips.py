"""Labelled recordings and honest splits."""

import csv
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import AgentError, RecordingError, UsageError
from model_export.clips import LABELS, Clip, class_folders, digest_of, esc10, hold_out_fold, urbansound8k


def test_a_data_set_is_read_from_one_metadata_file(data_sets: tuple[Path, Path]) -> None:
    """Each clip has a file that exists, a label of ours, its fold and its recording."""
    clips = urbansound8k(data_sets[0]) + esc10(data_sets[1])

    assert len(clips) == 24 + 5
    assert [clip.label for clip in clips if "rooster" in clip.file.name] == ["background"]
    assert {clip.label for clip in clips} == {"siren", "jackhammer", "dog_bark", "background"}
    assert all(clip.file.is_file() and clip.label in LABELS for clip in clips)


def test_published_layouts_are_read_as_they_are(tmp_path: Path) -> None:
    """A user points at UrbanSound8K and ESC-50 as they were downloaded."""
    published = {
        "metadata/UrbanSound8K.csv": {
            "slice_file_name": "7-1-0-0.wav",
            "fsID": "7",
            "fold": "4",
            "class": "car_horn",
            "salience": "2",
        },
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
        Clip(tmp_path / "audio" / "fold4" / "7-1-0-0.wav", "car_horn", "us8k", 4, "7", is_faint=True),
    ]
    assert esc10(tmp_path) == [Clip(tmp_path / "audio" / "1-9-A-0.wav", "dog_bark", "esc10", 1, "9")]


@pytest.mark.parametrize(("read", "option"), [(urbansound8k, "--us8k"), (esc10, "--esc10")])
def test_a_folder_without_metadata_is_named(tmp_path: Path, read: object, option: str) -> None:
    """The message says which option points at the wrong folder."""
    assert callable(read)
    with pytest.raises(UsageError, match=f"{option} {tmp_path}"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("read", "table", "message"),
    [
        (urbansound8k, "file,fold,class,fsID\na,1,siren,7\nb,1,sirene,7", "line 3: class sirene, expected one of air_"),
        (urbansound8k, "file,fold,class\na,1,siren", "line 2: nothing in column fsID"),
        (urbansound8k, "file,fold,class,fsID\na,1,siren", "line 2: nothing in column fsID"),
        (urbansound8k, "file,fold,class,fsID\na,fold1,siren,7", "line 2: fold fold1, expected a number"),
        (esc10, "file,fold,class,source_id\na,1,cat,7", "line 2: class cat, expected one of dog_bark, dog, rain"),
        (esc10, "file,fold,label,source_id\na,1,rain,7", "line 2: nothing in column class"),
    ],
)
def test_a_line_that_is_not_of_the_data_set_is_named(
    tmp_path: Path, read: Callable[[Path], list[Clip]], table: str, message: str
) -> None:
    """Whoever wrote the table learns where it broke, and what was expected."""
    (tmp_path / "metadata.csv").write_text(table, encoding="utf-8")

    with pytest.raises(UsageError, match=re.escape(f"{tmp_path / 'metadata.csv'}, {message}")):
        read(tmp_path)


def test_a_table_may_come_from_a_spreadsheet(tmp_path: Path) -> None:
    """It writes a mark in front of UTF-8; in another encoding it is refused by name."""
    table = "file,fold,class,fsID\nStraße.wav,1,siren,7\n"
    (tmp_path / "metadata.csv").write_text(table, encoding="utf-8-sig")
    assert [clip.file for clip in urbansound8k(tmp_path)] == [tmp_path / "Straße.wav"]

    (tmp_path / "metadata.csv").write_text(table, encoding="latin-1")
    with pytest.raises(UsageError, match=f"{tmp_path / 'metadata.csv'}: not CSV in UTF-8"):
        urbansound8k(tmp_path)


def test_the_same_clips_have_the_same_digest_wherever_they_lie(data_sets: tuple[Path, Path], tmp_path: Path) -> None:
    """In whichever order; another label, recording, fold, name or length, and the digest is another."""
    clips = urbansound8k(data_sets[0])
    longer = tmp_path / clips[0].file.name
    longer.write_bytes(clips[0].file.read_bytes())
    digest = digest_of(clips)

    assert digest_of([replace(clips[0], file=longer), *reversed(clips[1:])]) == digest
    longer.write_bytes(longer.read_bytes() + b"\0")
    for change in (
        {"label": "drilling"},
        {"recording": "another"},
        {"fold": 9},
        {"dataset": "esc10"},
        {"file": clips[1].file},
        {"file": longer},
    ):
        assert digest_of([replace(clips[0], **change), *clips[1:]]) != digest


def test_a_clip_that_was_changed_in_its_place_has_another_digest(tmp_path: Path) -> None:
    """As long as before: whoever takes the hum out of all clips trains anew."""
    clips = [Clip(tmp_path / "a.wav", "siren", "us8k", 1, "7")]
    clips[0].file.write_bytes(b"with hum")
    before = digest_of(clips)

    clips[0].file.write_bytes(b"without!")

    assert digest_of(clips) != before


def test_a_clip_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Before anything is trained."""
    with pytest.raises(RecordingError, match=r"gone\.wav: cannot be opened \(No such file"):
        digest_of([Clip(tmp_path / "gone.wav", "siren", "us8k", 1, "7")])


def test_no_recording_of_the_test_fold_is_heard_in_training(data_sets: tuple[Path, Path]) -> None:
    """A recording that stands in two folds leaves training when one of them is the test."""
    train, test = hold_out_fold(urbansound8k(data_sets[0]), 1)

    assert {clip.fold for clip in test} == {1}
    assert "both" in {clip.recording for clip in test}
    assert {clip.recording for clip in train}.isdisjoint({clip.recording for clip in test})


# Own classes


def laid_out(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_a_folder_is_a_class_and_what_lies_in_it_a_recording(tmp_path: Path) -> None:
    """A file is a recording; so is a folder with clips that were cut from one. Hidden folders are none of ours."""
    laid_out(
        tmp_path, "bell/a.wav", "bell/b.flac", "bell/tower/1.wav", "bell/tower/2.wav", "horn_2/a.ogg", "horn_2/c.mp3"
    )
    laid_out(tmp_path, ".git/x.wav", "README.txt", "bell/notes.txt")

    clips = class_folders(tmp_path)

    assert {(clip.file.relative_to(tmp_path).as_posix(), clip.label, clip.recording) for clip in clips} == {
        ("bell/a.wav", "bell", "bell/a.wav"),
        ("bell/b.flac", "bell", "bell/b.flac"),
        ("bell/tower/1.wav", "bell", "bell/tower"),
        ("bell/tower/2.wav", "bell", "bell/tower"),
        ("horn_2/a.ogg", "horn_2", "horn_2/a.ogg"),
        ("horn_2/c.mp3", "horn_2", "horn_2/c.mp3"),
    }
    assert {clip.fold for clip in clips} == {1, 2}  # as many as the class with the fewest recordings has


def test_each_fold_has_its_share_of_each_class(tmp_path: Path) -> None:
    """Whatever fold is the test, each class is tested, and the clips of one recording stay together."""
    laid_out(tmp_path, *(f"{label}/{n}/{half}.wav" for label in "ab" for n in range(12) for half in "xy"))

    clips = class_folders(tmp_path)

    for label in "ab":
        counts = [sum(clip.fold == fold and clip.label == label for clip in clips) for fold in range(1, 6)]
        assert sorted(counts) == [4, 4, 4, 6, 6]
    for fold in range(1, 6):
        train, test = hold_out_fold(clips, fold)
        assert len(train) + len(test) == len(clips)
        assert {clip.recording for clip in train}.isdisjoint({clip.recording for clip in test})
    assert class_folders(tmp_path) == clips


def test_linked_recordings_are_not_passed_over(tmp_path: Path) -> None:
    """A class, or a file, may be a link; a folder of clips in a class may not, and says so at any depth."""
    for name in ("elsewhere/a.wav", "elsewhere/b.wav", "data/bell/a.wav", "data/bell/tower/b.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "data" / "horn").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "bell" / "c.wav").symlink_to(tmp_path / "elsewhere" / "a.wav")
    assert len(class_folders(tmp_path / "data")) == 5

    (tmp_path / "data" / "bell" / "tower" / "more").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(UsageError, match=r"bell/tower/more: is a link to a folder, expected the folder itself"):
        class_folders(tmp_path / "data")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "folders in it: 0, expected two or more, one for each class"),
        (("bell/a.wav", "bell/b.wav"), "folders in it: 1, expected two or more, one for each class"),
        (
            ("a/1.wav", "a/2.wav", "Church bell/1.wav"),
            "'Church bell' is no label, expected small letters, digits and _",
        ),
        (("a/1.wav", "a/2.wav", "b/1.wav"), "b: recordings in it: 1, expected two or more"),
        (("a/1.wav", "a/2.wav", "b/one/1.wav", "b/one/2.wav"), "b: recordings in it: 1, expected two or more"),
        (
            ("a/1.wav", "a/2.wav", "b/1.wav", "b/2.wav", "3.WAV", "4.mp3"),
            "recordings that lie in no class's folder: 2, the first 3.WAV; expected none",
        ),
        (("a/1.wav", "a/2.wav", "b/notes.txt"), "b: no recordings in this folder, expected *.aif"),
    ],
)
def test_what_is_no_class_is_named(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    """The message says which folder, what was there and what was expected."""
    laid_out(tmp_path, *names)

    with pytest.raises(AgentError, match=re.escape(message)):
        class_folders(tmp_path)
