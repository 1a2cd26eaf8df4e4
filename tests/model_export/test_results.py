"""What cross-validation measured, and its file."""

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.errors import UsageError
from model_export.clips import LABELS, Clip
from model_export.results import (
    COLUMNS,
    predictions_of,
    read_all_windows,
    read_predictions,
    read_windows,
    write_predictions,
    write_windows,
)
from tests.model_export.predicted import predicted, windows_of

ROWS = [("r1", "siren", "siren", 1.0), ("r1", "siren", "dog_bark", 0.6), ("r2", "background", "background", 0.8)]


def test_a_clip_is_judged_by_the_sum_of_its_windows() -> None:
    """One confident window wins over two that lean a little the other way; the mean of them is kept."""
    clips = [Clip(Path(f"x/{name}.wav"), LABELS[0], "us8k", 1, name) for name in "ab"]
    likelihoods = np.zeros((4, len(LABELS)), np.float32)
    likelihoods[:, :2] = [[0.9, 0.1], [0.4, 0.6], [0.4, 0.6], [0.2, 0.8]]

    run = predictions_of(clips, likelihoods, [3, 1], labels=LABELS, system="x", fold=1, seed=0)

    np.testing.assert_array_equal(run.likelihoods[:, :2], [[0.5667, 0.4333], [0.2, 0.8]])
    assert run.likelihoods.argmax(axis=1).tolist() == [0, 1]
    assert run.clips == ("us8k a.wav", "us8k b.wav")


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    """Runs survive the way through their file, each with its fold, system and seed."""
    runs = [predicted(ROWS, seed=7), predicted(ROWS[:2], fold=2), predicted(ROWS, system="peer")]
    write_predictions(runs, tmp_path / "predictions.csv")

    read = read_predictions(tmp_path / "predictions.csv")

    for run, again in zip(runs, read, strict=True):
        assert (again.fold, again.system, again.seed) == (run.fold, run.system, run.seed)
        assert (again.labels, again.clips, again.recordings) == (run.labels, run.clips, run.recordings)
        np.testing.assert_array_equal(again.targets, run.targets)
        np.testing.assert_array_equal(again.likelihoods, run.likelihoods)


def test_half_a_table_is_none(tmp_path: Path, full_disk: Callable[[], AbstractContextManager[None]]) -> None:
    """It would be read as one of fewer clips, and be worth other figures."""
    with full_disk(), pytest.raises(OSError, match="large"):
        write_predictions([predicted(ROWS)], tmp_path / "predictions.csv")

    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The message says what is missing and which command writes it."""
    with pytest.raises(UsageError, match=r"predictions\.csv: No such file.*urbansound-model crossvalidate"):
        read_predictions(tmp_path / "predictions.csv")


def test_a_file_without_a_clip_is_refused(tmp_path: Path) -> None:
    """There is nothing to judge."""
    write_predictions([], tmp_path / "predictions.csv")

    with pytest.raises(UsageError, match="no clip in it, expected one or more"):
        read_predictions(tmp_path / "predictions.csv")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,x,0,us8k a.wav,r1,meow" + ",0.1" * 11, "line 2: label meow, expected one of air_conditioner"),
        ("1,x,zero,us8k a.wav,r1,siren" + ",0.1" * 11, "line 2: .*zero"),
        ("one,x,0,us8k a.wav,r1,siren" + ",0.1" * 11, "line 2: .*one"),
        ("1,x,0,us8k a.wav,r1,siren" + ",0.1" * 10, "line 2: 16 values, expected 17"),
        ("1,x,0,us8k a.wav,r1,siren,nan" + ",0.1" * 10, "line 2: likelihoods nan.*expected 0 to 1"),
        ("1,x,0", "line 2: 3 values, expected 17"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    """Whoever edited the file learns where it broke."""
    file = tmp_path / "predictions.csv"
    file.write_text(f"{','.join((*COLUMNS, *LABELS))}\n{line}\n")

    with pytest.raises(UsageError, match=message):
        read_predictions(file)


@pytest.mark.parametrize("content", [b"file,label,likelihood\n", b"", b"\xff\xfe"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    """It is not read as predictions."""
    (tmp_path / "predictions.csv").write_bytes(content)

    with pytest.raises(UsageError, match=r"expected the columns fold,system,seed,clip|not CSV"):
        read_predictions(tmp_path / "predictions.csv")


# Windows


def test_windows_are_kept_small_and_read_again(tmp_path: Path) -> None:
    """Sums come back to three digits, with the clips they are of; a window of eleven labels takes 22 bytes at most."""
    windows = windows_of("sigmoid")
    write_windows(windows, tmp_path / "windows.npz")

    again = read_windows(tmp_path / "windows.npz", windows.run)

    assert again.output == "sigmoid"
    np.testing.assert_allclose(again.sums, windows.sums, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(again.counts, windows.counts)
    assert (tmp_path / "windows.npz").stat().st_size < 2 * windows.sums.size + 20_000


def test_windows_of_other_clips_are_refused(tmp_path: Path) -> None:
    """A fold that was tested anew does not lend its windows to older predictions."""
    write_windows(windows_of("softmax"), tmp_path / "windows.npz")

    with pytest.raises(UsageError, match=r"windows\.npz: not of the clips and labels of predictions\.csv"):
        read_windows(tmp_path / "windows.npz", windows_of("softmax", fold=2).run)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04"])
def test_windows_that_are_none_are_named(tmp_path: Path, content: bytes) -> None:
    """A broken file is named, with what writes it."""
    (tmp_path / "windows.npz").write_bytes(content)

    with pytest.raises(UsageError, match=r"windows\.npz: .*urbansound-model crossvalidate"):
        read_windows(tmp_path / "windows.npz", windows_of("softmax").run)


def test_windows_of_which_a_bit_has_changed_are_no_traceback(tmp_path: Path) -> None:
    """Wherever in the file it is: in what is packed, or how, or in a name."""
    windows, file = windows_of("softmax", n_clips=20), tmp_path / "windows.npz"
    write_windows(windows, file)
    whole = file.read_bytes()
    for place in range(0, len(whole), 5):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with suppress(UsageError):
            read_windows(file, windows.run)


def test_windows_are_taken_where_they_were_kept(tmp_path: Path) -> None:
    """Of two folds one kept them; a peer and int8 have none."""
    first, second = windows_of("softmax"), windows_of("softmax", fold=2)
    (tmp_path / "fold2").mkdir()
    write_windows(second, tmp_path / "fold2" / "windows.npz")
    peer = replace(second.run, system="peer")

    (read,) = read_all_windows(tmp_path, [first.run, second.run, peer])

    assert read.run is second.run
