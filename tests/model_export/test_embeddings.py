"""Embeddings as the agent computes them, kept from run to run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from agent.errors import RecordingError, UsageError
from agent.model_card import ModelFolder, load_model_folder
from model_export.clips import Clip
from model_export.embeddings import EmbeddingCache, Listener
from model_export.tflite_mlp import run_mlp
from tests.commands import Caller

RATE_HZ = 22_050


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    """Two short sounds, each a recording of its own."""
    rng = np.random.default_rng(0)
    made = []
    for name in ("one", "other"):
        file = tmp_path / f"{name}.wav"
        soundfile.write(file, rng.normal(0.0, rng.uniform(0.01, 0.1), round(1.2 * RATE_HZ)), RATE_HZ)
        made.append(Clip(file, name, "own", 1, name))
    return made


@pytest.fixture
def cache(model: ModelFolder, tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(model, tmp_path / "cache")


def deaf(cache: EmbeddingCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, whoever wants to hear a recording fails."""

    def refuse(_blocks: object, _sample_rate_hz: int) -> None:
        pytest.fail("a recording is heard again")

    monkeypatch.setattr(cache, "_embedded", refuse)


def test_they_are_what_the_agents_classifier_gets(
    model: ModelFolder, clips: list[Clip], cache: EmbeddingCache, call: Caller
) -> None:
    """The shipped classifier, run on them, says what `urbansound classify` says."""
    rows = cache.embeddings_of(clips)[clips[0]]

    likelihoods = run_mlp(model.classifier_file, model.card.embedding.output, rows).mean(axis=0)

    said = json.loads(call("classify", "--format", "jsonl", clips[0].file).out)
    assert len(rows) == said["n_windows"]
    np.testing.assert_allclose(likelihoods, list(said["likelihoods"].values()), atol=1e-4)


def test_a_recording_is_heard_once(
    model: ModelFolder, clips: list[Clip], cache: EmbeddingCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run, with the file elsewhere, gets the same numbers without hearing it."""
    first = cache.embeddings_of(clips)
    moved = Clip(clips[0].file.rename(tmp_path / "moved.wav"), "one", "own", 1, "one")
    again = EmbeddingCache(model, tmp_path / "cache")
    deaf(again, monkeypatch)

    second = again.embeddings_of([moved, clips[1]])

    np.testing.assert_array_equal(second[moved], first[clips[0]])
    np.testing.assert_array_equal(second[clips[1]], first[clips[1]])


def test_a_changed_recording_is_heard_again(clips: list[Clip], cache: EmbeddingCache) -> None:
    """The name does not matter, the content does."""
    first = cache.embeddings_of(clips)
    shutil.copyfile(clips[1].file, clips[0].file)

    second = cache.embeddings_of(clips)

    assert not np.array_equal(first[clips[0]], first[clips[1]])
    np.testing.assert_array_equal(second[clips[0]], first[clips[1]])


def test_another_model_hears_for_itself(
    model: ModelFolder, clips: list[Clip], cache: EmbeddingCache, tmp_path: Path
) -> None:
    """A model with another card, here another front end, does not get the numbers of this one."""
    first = cache.embeddings_of(clips[:1])
    folder = shutil.copytree(model.path, tmp_path / "louder")
    card = json.loads((folder / "model.json").read_text())
    card["front_end"]["level_min_db"] = -20.0
    (folder / "model.json").write_text(json.dumps(card))

    second = EmbeddingCache(load_model_folder(folder), tmp_path / "cache").embeddings_of(clips[:1])

    assert not np.array_equal(first[clips[0]], second[clips[0]])


@pytest.mark.parametrize(
    "damaged", [b"", b"\x93NUMPY", b"PK\x03\x04 of some archive", b"\x93NUMPY\x01\0\x10\0{'shape': (3,  \n"]
)
def test_a_damaged_file_in_the_cache_is_made_again(
    clips: list[Clip], cache: EmbeddingCache, tmp_path: Path, damaged: bytes
) -> None:
    """Half a file, after a full disk, or another one, after a bad card, is as none."""
    first = cache.embeddings_of(clips[:1])
    (kept,) = (tmp_path / "cache").rglob("*.npy")
    kept.write_bytes(damaged)

    second = cache.embeddings_of(clips[:1])

    np.testing.assert_array_equal(second[clips[0]], first[clips[0]])


def test_what_is_no_recording_is_named(cache: EmbeddingCache, tmp_path: Path) -> None:
    """Training on fewer recordings than somebody believes would be worse than to stop."""
    empty = tmp_path / "empty.wav"
    empty.touch()

    with pytest.raises(RecordingError, match=r"empty.wav: is empty \(0 bytes\), expected a recording"):
        cache.embeddings_of([Clip(empty, "one", "own", 1, "one")])


def test_a_cache_that_cannot_be_written_is_named(model: ModelFolder, clips: list[Clip], tmp_path: Path) -> None:
    """The message says which option."""
    cache = EmbeddingCache(model, clips[1].file)

    with pytest.raises(UsageError, match=f"--cache {clips[1].file}: .*expected a folder to write to"):
        cache.embeddings_of(clips[:1])


def test_a_model_hears_at_another_gain(model: ModelFolder, clips: list[Clip], tmp_path: Path) -> None:
    """As if the recording had been that loud; a sound beyond full scale is not clipped on the way."""
    samples, rate_hz = soundfile.read(clips[0].file, dtype="float32")
    soundfile.write(tmp_path / "loud.wav", 100.0 * samples, rate_hz, subtype="FLOAT")

    quiet, loud = Listener(model).hear(clips[0].file, gain_db=40.0), Listener(model).hear(tmp_path / "loud.wav")

    for one, other in zip(quiet, loud, strict=True):
        np.testing.assert_allclose(one.likelihoods, other.likelihoods, atol=0.02)
