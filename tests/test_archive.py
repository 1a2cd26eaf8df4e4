"""Promises of `agent.archive`: a recording is the same by its path and by its address."""

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from agent.archive import RemoteFile, RemoteStream, walk_remote
from agent.errors import RecordingError, UsageError
from agent.recordings import SUFFIXES
from agent.wavfile import open_recording
from tests.commands import Caller

RATE_HZ = 8_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Recordings in two folders, and what is none."""
    samples = np.random.default_rng(1).normal(0.0, 0.1, 3 * RATE_HZ).astype(np.float32)
    (tmp_path / "night").mkdir()
    soundfile.write(tmp_path / "a.wav", samples, RATE_HZ)
    soundfile.write(tmp_path / "night" / "b.flac", samples, RATE_HZ)
    (tmp_path / "notes.txt").write_text("no recording")
    (tmp_path / ".hidden.wav").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("name", ["a.wav", "night/b.flac"])
@pytest.mark.parametrize("first_sample", [0, 12_345])
def test_an_address_gives_the_samples_of_the_file(folder: Path, name: str, first_sample: int) -> None:
    """The same samples, also from somewhere in the middle, and the same facts."""
    with (
        open_recording(folder / name, first_sample=first_sample) as here,
        open_recording(RemoteFile(f"file://{folder / name}"), first_sample=first_sample) as there,
    ):
        assert (there.sample_rate_hz, there.n_samples, there.seekable) == (RATE_HZ, 3 * RATE_HZ, True)
        assert there.name == f"file://{folder / name}"
        for mine, theirs in zip(here.blocks(), there.blocks(), strict=True):
            np.testing.assert_array_equal(mine.samples, theirs.samples)
        assert there.problem is None


def test_what_is_wrong_is_said_as_of_a_file(folder: Path) -> None:
    """Empty, cut short, no recording, not there: one line each, with the address."""
    whole = (folder / "a.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])

    with open_recording(RemoteFile(f"file://{folder}/cut.wav")) as cut:
        assert cut.problem is not None
        assert "truncated" in cut.problem
    for name, reason in ((".hidden.wav", "is empty"), ("notes.txt", "not a recording"), ("gone.wav", "cannot be")):
        with pytest.raises(RecordingError, match=f"file://.*{name}: {reason}"):
            open_recording(RemoteFile(f"file://{folder}/{name}"))
    with pytest.raises(RecordingError, match="what://is/this: cannot be opened"):
        open_recording(RemoteFile("what://is/this"))


def test_folders_and_patterns_are_searched(folder: Path) -> None:
    """As folders of this machine are: all recordings below, in order, hidden ones and other files left out."""
    archive = folder / "day.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(folder / "a.wav", "a.wav")

    found, problems = walk_remote(
        [RemoteFile(f"file://{folder}"), RemoteFile(f"zip://*.wav::file://{archive}"), RemoteFile("file:///gone")],
        SUFFIXES,
    )

    assert [str(file) for file in found] == [
        f"file://{folder}/a.wav",
        f"file://{folder}/night/b.flac",
        f"zip://a.wav::file://{archive}",
    ]
    assert [str(problem) for problem in problems] == ["file:///gone: no recordings there"]
    with open_recording(found[2]) as packed_up:
        assert sum(len(block.samples) for block in packed_up.blocks()) == 3 * RATE_HZ


def test_a_stream_that_fails_spoils_only_the_rest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network goes in the middle: what came before is heard, and why it ends is said."""
    read = RemoteStream.read
    with open_recording(RemoteFile(f"file://{folder}/a.wav")) as recording:
        blocks = recording.blocks(RATE_HZ)
        first = next(blocks)

        def failing(stream: RemoteStream, n: int = -1) -> bytes:
            stream.error = OSError("connection reset")
            return read(stream, n)

        monkeypatch.setattr(RemoteStream, "read", failing)
        list(blocks)

    assert len(first.samples) == RATE_HZ
    assert recording.problem is not None
    assert "cannot be read beyond" in recording.problem
    assert "connection reset" in recording.problem


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("s3://archive/2026/a.wav", "a.wav"),
        ("zip://night/a.wav::file:///b.zip", "a.wav"),
        ("simplecache::https://host/a.wav", "a.wav"),
        ("https://host/a.wav?from=/b.wav", "a.wav"),
    ],
)
def test_a_recording_has_its_own_name(address: str, name: str) -> None:
    """Not that of the archive that it is in, and not what is asked for beside it."""
    assert RemoteFile(address).name == name


def test_a_password_in_an_address_is_not_shown() -> None:
    """Not in what is printed of a recording, and not in errors."""
    file = RemoteFile("what://user:hush@host/a.wav")

    assert str(file) == "what://user:***@host/a.wav"
    with pytest.raises(RecordingError) as caught:
        file.open()
    assert "hush" not in str(caught.value)
    (problem,) = walk_remote([file], SUFFIXES)[1]
    assert "hush" not in str(problem)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://user:hu@sh@host:80/a.wav", "http://user:***@host:80/a.wav"),
        ("http://hush@host/a.wav", "http://***@host/a.wav"),
        ("http://hush@[fe80::1:2]:80/a.wav", "http://***@[fe80::1:2]:80/a.wav"),
        ("https://host/a.wav?hush", "https://host/a.wav?***"),
        ("abfs://box/a.wav?sig=hush&x=1", "abfs://box/a.wav?***"),
        ("zip://a.wav::http://user:hush@host/b.zip?sig=hush", "zip://a.wav::http://user:***@host/b.zip?***"),
        ("zip://?@night.wav::file:///b.zip", "zip://?@night.wav::file:///b.zip"),
        ("file:///b/?.wav", "file:///b/?.wav"),
    ],
)
def test_no_secret_of_an_address_is_shown(address: str, shown: str) -> None:
    """Neither a password, nor a token in its place, nor what follows a question mark; signs of patterns stay."""
    assert str(RemoteFile(address)) == shown


def test_what_a_file_system_says_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its errors quote addresses as they were opened, or a part of them."""
    inner = "http://user:hush@host/b.zip?sig=hush"
    said = f"Max retries exceeded with url: /b.zip?sig=hush ({inner})"

    def failing(*_: object, **__: object) -> None:
        raise OSError(said)

    monkeypatch.setattr("fsspec.core.url_to_fs", failing)
    file = RemoteFile(f"zip://a.wav::{inner}")

    with pytest.raises(RecordingError) as caught:
        file.open()
    (problem,) = walk_remote([file], SUFFIXES)[1]
    for message in (str(caught.value), str(problem)):
        assert "hush" not in message
        assert "Max retries exceeded with url: /b.zip?*** (http://user:***@host/b.zip?***" in message


def test_two_addresses_that_are_shown_alike_are_not_mixed_up(folder: Path) -> None:
    """Who reads the events could not tell them apart: the second is named, and left out."""
    for name in ("a?part=1.wav", "a?part=2.wav"):
        (folder / name).write_bytes((folder / "a.wav").read_bytes())
    addresses = [RemoteFile(f"file://{folder}/a?part={number}.wav") for number in (1, 2)]

    found, problems = walk_remote(addresses, SUFFIXES)

    assert found == addresses[:1]
    assert [str(problem) for problem in problems] == [
        f"file://{folder}/a?***: another address is shown like this one, expected a command for each"
    ]


def test_without_fsspec_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, call: Caller) -> None:
    """An address without the extra is a matter of usage."""
    monkeypatch.setitem(sys.modules, "fsspec", None)

    with pytest.raises(UsageError, match=r"pip install '\.\[cluster\]'"):
        open_recording(RemoteFile("file:///a.wav"))
    assert call("replay", "s3://bucket/a.wav").code == 2
