"""Labelled scenes, read and written."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from agent.errors import UsageError
from model_export.scenes import Scene, Sounding, read_scenes, read_soundings, write_soundings

LABELS = ("siren", "dog_bark")


def a_scene(folder: Path, name: str, table: str) -> Path:
    """A second of silence with these labels."""
    file = folder / f"{name}.wav"
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, np.zeros(8_000), 8_000)
    file.with_suffix(".tsv").write_text(table)
    return file


def test_scenes_are_read_with_what_sounds_in_them(tmp_path: Path) -> None:
    """A recording and a table beside it; who made it may say of which fold and group it is."""
    first = a_scene(tmp_path, "a", "0.500\t0.750\tsiren\n0.1\t0.2\tdog_bark\n")
    second = a_scene(tmp_path / "deep", "b", "")
    first.with_suffix(".json").write_text(json.dumps({"fold": 2, "group": "fold2-1", "seed": 0}))

    found = read_scenes(tmp_path, LABELS)

    soundings = (Sounding(0.1, 0.2, "dog_bark"), Sounding(0.5, 0.75, "siren"))
    assert [one.file for one in found] == [first, second]
    assert [one.scene for one in found] == [
        Scene("a", 2, "fold2-1", soundings),
        Scene("deep/b", None, "deep/b", ()),
    ]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """In the order of the onsets, to the millisecond, in the three columns that sed_eval reads."""
    write_soundings([Sounding(2.0, 3.0, "siren"), Sounding(0.0004, 1.23456, "dog_bark")], tmp_path / "x.tsv")

    assert (tmp_path / "x.tsv").read_text() == "0.000\t1.235\tdog_bark\n2.000\t3.000\tsiren\n"
    assert read_soundings(tmp_path / "x.tsv", LABELS)[0] == Sounding(0.0, 1.235, "dog_bark")


@pytest.mark.parametrize("line", ["1.0\tsiren", "1.0\t0.5\tsiren", "0\t1\tcow", "a\t1\tsiren", "-1\t1\tsiren", ""])
def test_a_line_that_is_no_label_is_named(tmp_path: Path, line: str) -> None:
    """File and line are told, and what was expected."""
    a_scene(tmp_path, "a", f"0\t1\tsiren\n{line}\n")

    with pytest.raises(UsageError, match=r"a\.tsv, line 2: .*expected onset"):
        read_scenes(tmp_path, LABELS)


def test_a_time_without_end_is_no_label(tmp_path: Path) -> None:
    """Nothing sounds for ever."""
    a_scene(tmp_path, "a", "1.0\tinf\tsiren\n")

    with pytest.raises(UsageError, match=r"a\.tsv, line 1: .*expected onset before offset"):
        read_scenes(tmp_path, LABELS)


def test_lines_of_one_label_that_overlap_are_one_sound(tmp_path: Path) -> None:
    """Two people who label one siren, or two sirens at a time: nobody can tell how many there are."""
    lines = ["3\t8\tsiren", "1\t5\tsiren", "2\t4\tdog_bark", "6\t7\tsiren", "8\t9\tsiren"]
    a_scene(tmp_path, "a", "\n".join(lines))

    (found,) = read_scenes(tmp_path, LABELS)

    assert found.scene.soundings == (
        Sounding(1.0, 8.0, "siren"),
        Sounding(2.0, 4.0, "dog_bark"),
        Sounding(8.0, 9.0, "siren"),
    )


def test_labels_in_another_encoding_are_named(tmp_path: Path) -> None:
    """An old spreadsheet writes Latin-1."""
    a_scene(tmp_path, "a", "").with_suffix(".tsv").write_bytes("0\t1\tsirène\n".encode("latin-1"))

    with pytest.raises(UsageError, match=r"a\.tsv: not UTF-8 text \("):
        read_scenes(tmp_path, LABELS)


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("{", r"not JSON \("),
        ("[]", "expected a fold and a group"),
        ('{"group": 3}', "expected a fold and a group"),
        ('{"fold": "1"}', "expected a fold and a group"),
    ],
)
def test_an_origin_that_says_nothing_is_named(tmp_path: Path, origin: str, expected: str) -> None:
    """A file of that name that `soundscapes` has not written."""
    a_scene(tmp_path, "a", "").with_suffix(".json").write_text(origin)

    with pytest.raises(UsageError, match=rf"a\.json: {expected}"):
        read_scenes(tmp_path, LABELS)


def test_a_recording_without_labels_is_named(tmp_path: Path) -> None:
    """A scene that nobody labelled is not one without events."""
    a_scene(tmp_path, "a", "").with_suffix(".tsv").unlink()

    with pytest.raises(UsageError, match=r"a\.tsv: No such file"):
        read_scenes(tmp_path, LABELS)
