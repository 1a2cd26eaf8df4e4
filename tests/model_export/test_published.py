"""Published networks, as teachers and as opponents."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import flatbuffers
import librosa
import numpy as np
import pytest
import soundfile
from ai_edge_litert import schema_py_generated as schema

from agent.errors import ModelError, RecordingError
from agent.model_card import DEFAULT_MODEL, load_model_folder
from agent.values import FloatArray
from model_export.clips import urbansound8k
from model_export.embeddings import Listener
from model_export.features import read_mono
from model_export.published import PublishedNetwork
from tests.conftest import SHARED_DATA

YAMNET = SHARED_DATA.parent / "models" / "yamnet.tflite"
SONYC = SHARED_DATA.parent / "models" / "sonyc_l3_ust_int8.tflite"


def test_a_network_embeds_each_tenth_of_a_second() -> None:
    """YAMNet's 1024-d embedding comes for each window of 0.975 s, and tells sounds apart."""
    if not YAMNET.is_file():
        pytest.skip("yamnet.tflite is not at hand")
    yamnet = PublishedNetwork(YAMNET)
    rng = np.random.default_rng(0)

    noise = yamnet.embeddings(0.1 * rng.standard_normal(32_000).astype(np.float32), 16_000)
    tone = yamnet.embeddings(np.sin(np.arange(44_100) * 2 * np.pi * 440 / 44_100).astype(np.float32), 44_100)

    assert yamnet.window_samples == 15_600
    assert noise.shape == (11, 1024)
    assert tone.shape == (1, 1024)
    assert np.linalg.norm(noise[0] - tone[0]) > np.linalg.norm(noise[0] - noise[5])


def test_the_network_of_sonycs_sensors_is_heard_as_it_hears() -> None:
    """Its 256-d embedding comes for each second, before its MLP; how loud a sound is, it does not know."""
    if not SONYC.is_file():
        pytest.skip("sonyc_l3_ust_int8.tflite is not at hand")
    sonyc = PublishedNetwork(SONYC)
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)

    rows = sonyc.embeddings(noise, 8_000)

    assert rows.shape == (11, 256)
    assert rows.min() < 0.0, "not the activations between the layers of its MLP"
    np.testing.assert_allclose(sonyc.embeddings(0.125 * noise, 8_000), rows, atol=0.1)  # of steps of 0.03


def test_sonycs_spectrogram_is_that_of_librosa(spectrogram_network: Path) -> None:
    """The embedding of a network that does nothing before its first layer is its input."""
    rng = np.random.default_rng(1)
    sound = (np.sin(np.arange(8_000) ** 2 / 20_000) + 0.01 * rng.standard_normal(8_000)).astype(np.float32)
    magnitudes = np.abs(librosa.stft(sound, n_fft=1024, hop_length=160, pad_mode="constant"))
    mel = librosa.filters.mel(sr=8_000, n_fft=1024, n_mels=64, htk=True) @ magnitudes
    expected = np.maximum(10.0 * np.log10(mel / mel.max()), -80.0)  # half decibels

    (found,) = PublishedNetwork(spectrogram_network).embeddings(sound, 8_000)

    np.testing.assert_allclose(found.reshape(64, 51), expected, atol=0.01)


def test_a_model_folder_is_heard_as_the_agent_hears_it(tmp_path: Path) -> None:
    """Such as that of an imported OpenL3, or another one of ours: the same embeddings, to the last bit."""
    sound = 0.1 * np.random.default_rng(2).standard_normal(24_000).astype(np.float32)
    file = tmp_path / "noise.wav"
    soundfile.write(file, sound, 16_000, subtype="FLOAT")
    folder = Path(shutil.copytree(DEFAULT_MODEL, tmp_path / "model"))
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    (folder / "model.json").write_text(json.dumps(card | {"trained_on": {}}), encoding="utf-8")
    model = load_model_folder(folder)

    network = PublishedNetwork(folder)

    assert network.identity == {"name": model.card.name, "sha256": model.sha256}
    expected = np.stack([window.embedding for window in Listener(model).hear(file)])
    np.testing.assert_array_equal(network.embeddings(sound, 16_000), expected)


def test_a_model_that_has_heard_the_clips_is_no_opponent_and_no_teacher() -> None:
    """It would know the answers, of the test as well."""
    with pytest.raises(
        ModelError, match=r"has heard the folds esc10 \(1, 2, 3, 4\), us8k \(1, 2, 3\), expected one that"
    ):
        PublishedNetwork(DEFAULT_MODEL)


def test_the_embedding_is_what_goes_into_the_last_layer(published: Path) -> None:
    """Six values, not the four scores after them; a sound shorter than a window is padded."""
    network = PublishedNetwork(published)

    rows = network.embeddings(np.full(1_000, 0.1, np.float32), 16_000)

    assert network.name == "loudness"
    assert rows.shape == (1, 6)
    assert rows.dtype == np.float32
    assert rows.min() >= 0.0


def test_with_a_cache_each_clip_is_heard_once(
    published: Path, data_sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was heard before comes from the cache, also when more clips are asked for."""
    clips = urbansound8k(data_sets[0])[:4]
    expected = [PublishedNetwork(published).embeddings(*read_mono(clip.file)) for clip in clips]
    PublishedNetwork(published, cache=tmp_path).embeddings_of(clips[1:3])
    heard: list[Path] = []

    def listen(file: Path) -> tuple[FloatArray, int]:
        heard.append(file)
        return read_mono(file)

    monkeypatch.setattr("model_export.published.read_mono", listen)

    rows = PublishedNetwork(published, cache=tmp_path).embeddings_of(clips)

    assert heard == [clips[0].file, clips[3].file]
    for row, same in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(row, same)


def test_a_cache_that_was_cut_is_made_again(published: Path, data_sets: tuple[Path, Path], tmp_path: Path) -> None:
    """It is as none."""
    clips = urbansound8k(data_sets[0])[:1]
    (expected,) = PublishedNetwork(published, cache=tmp_path).embeddings_of(clips)
    (kept,) = tmp_path.glob("*.npz")
    whole = kept.read_bytes()
    kept.write_bytes(whole[:100])

    (rows,) = PublishedNetwork(published, cache=tmp_path).embeddings_of(clips)

    np.testing.assert_array_equal(rows, expected)
    assert len(kept.read_bytes()) == len(whole)


def test_another_sound_of_the_same_name_is_heard(published: Path, data_sets: tuple[Path, Path], tmp_path: Path) -> None:
    """The cache knows a clip by its content: it is not fooled by a clip that was cut anew."""
    first, other = urbansound8k(data_sets[0])[:2]
    network = PublishedNetwork(published, cache=tmp_path)
    network.embeddings_of([first])
    cut_anew = tmp_path / first.file.name
    cut_anew.write_bytes(other.file.read_bytes())

    (rows,) = network.embeddings_of([replace(first, file=cut_anew)])

    np.testing.assert_array_equal(rows, network.embeddings(*read_mono(other.file)))


def test_a_clip_that_is_not_there_is_named(published: Path, data_sets: tuple[Path, Path], tmp_path: Path) -> None:
    """As any recording that cannot be read."""
    clip = replace(urbansound8k(data_sets[0])[0], file=tmp_path / "gone.wav")

    with pytest.raises(RecordingError, match=r"gone\.wav: cannot be opened \(No such file"):
        PublishedNetwork(published).embeddings_of([clip])


def test_a_waveform_of_any_length_is_refused(published: Path, tmp_path: Path) -> None:
    """Nothing says how much such a network is to hear at once."""
    model = schema.ModelT.InitFromPackedBuf(published.read_bytes())
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].shapeSignature = [-1]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    (tmp_path / "any.tflite").write_bytes(builder.Output())

    with pytest.raises(ModelError, match=r"takes float32 \(-1,\), expected one float32 waveform of a fixed length"):
        PublishedNetwork(tmp_path / "any.tflite")


def test_a_file_that_takes_no_waveform_is_refused(packaged: Path) -> None:
    """The message says what the file takes and what was expected."""
    with pytest.raises(ModelError, match="expected one float32 waveform"):
        PublishedNetwork(packaged / "embedding.tflite")
