"""OpenL3's weights to a model folder, and from there to a sensor with one's own classes."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from agent.errors import UsageError
from agent.frontend import LogMel
from agent.inference import Embedder
from agent.model_card import load_model_folder
from agent.values import Window
from model_export import mlp, openl3, openl3_folder, openl3_network
from model_export.cli import main
from model_export.metadata import read_metadata
from model_export.openl3 import LICENCE, Size, front_end
from model_export.openl3_folder import RECORDINGS, Import, recorded_windows, synthetic_windows
from model_export.openl3_network import openl3_network as network_of
from model_export.openl3_network import set_weights
from model_export.openl3_weights import read_weights
from model_export.published import PublishedNetwork
from model_export.teachers import Teachers
from tests.commands import Caller
from tests.model_export.openl3_files import named, random_layers, write_h5

FEW = (4, 8, 8, 16)
RATE_HZ = 44_100
PUBLISHED_NAME = "openl3_audio_mel128_music-v0_4_0.h5"


@pytest.fixture
def few_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same layers with few filters, and few windows: what is tested does not depend on how many there are."""
    monkeypatch.setattr(openl3, "FILTERS", FEW)
    monkeypatch.setattr(openl3_network, "FILTERS", FEW)
    monkeypatch.setattr(openl3_folder, "N_WINDOWS", 8)


@pytest.fixture
def weights(few_filters: None, tmp_path: Path) -> Path:
    """A file of the published form and name."""
    return write_h5(tmp_path / PUBLISHED_NAME, named(random_layers()))


@pytest.fixture(scope="module")
def own_recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that sound nothing alike, three short recordings of each."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    time_s = np.arange(round(1.5 * RATE_HZ)) / RATE_HZ
    for number in range(3):
        horn = sum(np.sin(2 * np.pi * (300 + 40 * number) * harmonic * time_s) / harmonic for harmonic in range(1, 9))
        for label, sound in (("horn", 0.2 * horn), ("hiss", rng.normal(0.0, 0.1, len(time_s)))):
            (folder / label).mkdir(exist_ok=True)
            soundfile.write(folder / label / f"{number}.wav", sound + rng.normal(0, 1e-3, len(time_s)), RATE_HZ)
    return folder


def imported(weights: Path, out: Path, *options: str) -> int:
    return main(["import-openl3", str(weights), "--input", "mel128", "--out", str(out), *options])


@pytest.mark.parametrize(("dtype", "size"), [("int8", 6144), ("int8", 512), ("float32", 512)])
def test_the_folder_says_what_the_weights_say(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str, size: Size
) -> None:
    """The agent's embedding of a window is that of the weights in Keras, in float32 to rounding, in int8 nearly."""
    out = tmp_path / "model"

    code = imported(weights, out, "--size", str(size), "--dtype", dtype)

    assert code == 0
    assert f"{dtype} against the weights on 8 windows of synthetic signals" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["MODEL_CARD.md", "embedding.tflite", "model.json"]
    model = load_model_folder(out)
    card = model.card.embedding
    assert model.card.name == f"openl3-mel128-music-{size}"
    assert (card.input.shape, card.input.dtype, card.output.dtype) == ((1, 128, 199, 1), dtype, dtype)
    assert card.output.shape == (1, FEW[-1] if size == 512 else 12 * FEW[-1])
    if dtype == "int8":
        assert card.input.scale == pytest.approx(80 / 255)
        assert card.input.zero_point == 127
    network = network_of(128, 199, size)
    set_weights(network, read_weights(weights))
    embedder = Embedder(model)
    for window in synthetic_windows(front_end("mel128"))[:6]:
        expected = network.predict(window.T[None, ..., None], verbose=0)[0]
        actual = embedder.embed(Window(window, 0, 1))
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, expected, atol=1e-3 if dtype == "float32" else 0.1 * np.ptp(expected))


def test_it_teaches_and_is_compared_with(weights: Path, tmp_path: Path) -> None:
    """As `--teacher` and as `--peer`: at its own rate, with its own front end; our sound is resampled for it."""
    out = tmp_path / "model"
    assert imported(weights, out, "--size", "512", "--dtype", "int8") == 0
    sound = np.random.default_rng(0).normal(0.0, 0.1, (2, 48_000)).astype(np.float32)
    embedder, log_mel = Embedder(load_model_folder(out)), LogMel(front_end("mel128"))

    network = PublishedNetwork(out)
    (said,) = Teachers([network], map_weights=(0.2, 0.7, 0.7), embedding_weight=10.0).say(sound[:, ::3])

    expected = embedder.embed(Window(log_mel.window(sound[0]), 0, 1))
    np.testing.assert_array_equal(network.embeddings(sound[0], 48_000), expected[None])
    assert said.shape == (2, FEW[-1])
    assert said[0].tolist() != said[1].tolist()


def test_the_documents_name_authors_licence_and_calibration(
    weights: Path, own_recordings: Path, tmp_path: Path
) -> None:
    """CC BY 4.0 with its authors, in the card, in the file and for people; what int8 was calibrated on."""
    on_signals, on_recordings = tmp_path / "signals", tmp_path / "recordings"
    assert imported(weights, on_signals, "--size", "512", "--dtype", "float32") == 0
    assert imported(weights, on_recordings, "--size", "512", "--calibrate", str(own_recordings)) == 0

    model = load_model_folder(on_recordings)
    assert model.card.licence == read_metadata(model.embedding_file).licence == LICENCE
    text = (on_recordings / "MODEL_CARD.md").read_text(encoding="utf-8")
    for phrase in ("CC BY 4.0", "J. Cramer", "Changed here", f"6 windows of {RECORDINGS}.", "--calibrate PATH --out"):
        assert phrase in text
    assert "windows of synthetic signals" in (on_signals / "MODEL_CARD.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("front_end_name", ["kapre", "librosa"])
def test_another_front_end_is_another_model(weights: Path, tmp_path: Path, front_end_name: str) -> None:
    """The card has the numbers of the front end that was asked for, and its name."""
    options = ["--size", "512", "--dtype", "float32", "--front-end", front_end_name]

    assert imported(weights, tmp_path / "model", *options) == 0

    card = load_model_folder(tmp_path / "model").card
    assert card.name == f"openl3-mel128-music-512-{front_end_name}"
    assert card.front_end == front_end("mel128", front_end_name)  # type: ignore[arg-type]  # one of the literals


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "size"), [("int8", 6144), ("float32", 512)])
def test_ones_own_classes_on_it_run_in_the_agent(
    weights: Path,
    own_recordings: Path,
    tmp_path: Path,
    *,
    monkeypatch: pytest.MonkeyPatch,
    call: Caller,
    dtype: str,
    size: int,
) -> None:
    """The agent refuses the embedding alone and says what to do; a head on it makes a model that replays recordings."""
    monkeypatch.setattr(mlp, "STEPS", 60)
    base, model = tmp_path / "base", tmp_path / "model"
    assert imported(weights, base, "--size", str(size), "--dtype", dtype, "--calibrate", str(own_recordings)) == 0
    horn = own_recordings / "horn" / "0.wav"
    monkeypatch.setenv("URBANSOUND_MODEL__PATH", str(base))
    refused = call("replay", horn)

    assert main(["head", "--base", str(base), "--data", str(own_recordings), "--out", str(model)]) == 0
    monkeypatch.setenv("URBANSOUND_MODEL__PATH", str(model))
    classified, replayed = call("classify", horn, own_recordings / "hiss" / "1.wav"), call("replay", horn)

    assert (refused.code, refused.out) == (78, "")
    assert f"`urbansound-model head --base {base}` teaches it classes" in refused.err
    assert [line.split(",")[1] for line in classified.out.splitlines()] == ["label", "hiss", "horn"]
    assert replayed.code == 0
    assert {json.loads(line)["label"] for line in replayed.out.splitlines()} == {"horn"}
    card = load_model_folder(model).card
    assert card.licence == LICENCE
    assert card.embedding == load_model_folder(base).card.embedding
    text = (model / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert ("dequantized int8 embeddings" if dtype == "int8" else "float32 embeddings") in text


def test_calibration_hears_each_recording(own_recordings: Path, few_filters: None) -> None:
    """As many windows of each recording, spread over it; a short one gives what it has."""
    windows = recorded_windows([own_recordings], front_end("mel128"))

    assert len(windows) == 6  # 1.5 s hold one whole window each
    assert len({window.tobytes() for window in windows}) == 6


def test_calibration_needs_some_sound(few_filters: None, own_recordings: Path) -> None:
    """One second fixes no ranges."""
    with pytest.raises(UsageError, match="--calibrate: windows of 1 s in 1 recordings: 1, expected 4 or more"):
        recorded_windows([own_recordings / "horn" / "0.wav"], front_end("mel128"))


def test_a_network_that_says_something_else_is_no_model(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the agent's embeddings are not like those of the weights, there is no `model.json`."""
    monkeypatch.setattr("keras.Model.predict", lambda _self, inputs, **_: np.eye(len(inputs), 16))

    code = imported(weights, tmp_path / "model", "--size", "512", "--dtype", "float32")

    assert code == 78
    assert "with those of the weights, expected 0.999 or more" in capsys.readouterr().err
    assert not (tmp_path / "model" / "model.json").exists()


def test_embeddings_that_are_no_numbers_are_like_nothing(
    few_filters: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A changed bit can make 1e30 of a weight, which is finite; what comes of a few such is not."""
    layers = random_layers()
    for number in (1, 3, 5):  # convolutions
        layers[number][0].flat[0] = 1e30

    code = imported(
        write_h5(tmp_path / "w.h5", named(layers)), tmp_path / "model", "--size", "512", "--dtype", "float32"
    )

    assert code == 78
    assert "embeddings have a median cosine of nan" in capsys.readouterr().err
    assert not (tmp_path / "model" / "model.json").exists()


@pytest.mark.parametrize(
    ("options", "code", "expected"),
    [
        ({"file": "missing.h5"}, 78, "weights file missing.h5: cannot be read (No such file or directory)"),
        ({"file": "empty.h5"}, 78, "weights file empty.h5: is not HDF5, or damaged"),
        ({"--input": "linear"}, 2, f"--input linear: {PUBLISHED_NAME} reads mel128 by its name"),
        ({"--calibrate": "missing"}, 74, "missing: no such file or folder"),
        ({"--calibrate": "empty.wav"}, 74, "empty.wav: is empty (0 bytes), expected a recording"),
        ({"--out": "empty.h5"}, 2, "--out empty.h5: File exists; expected a folder to write to"),
    ],
)
def test_what_cannot_be_is_named(
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    options: dict[str, str],
    code: int,
    expected: str,
) -> None:
    """The option or the file, what was there, and what was expected; no folder is written."""
    monkeypatch.chdir(weights.parent)
    Path("empty.h5").touch()
    Path("empty.wav").touch()
    given: dict[str, Any] = {
        "file": weights.name,
        "--input": "mel128",
        "--size": "512",
        "--dtype": "float32",
        "--out": "out",
    } | options
    file = given.pop("file")

    actual = main(["import-openl3", file, *(word for pair in given.items() for word in pair)])

    assert actual == code
    assert expected in capsys.readouterr().err
    assert not Path("out").exists()


def test_weights_without_a_published_name_are_named_by_what_they_read(tmp_path: Path) -> None:
    """A file of whatever name; whether it heard music or environments, nobody knows."""
    assert Import(tmp_path / "mine.h5", "linear", 512).name == "openl3-linear-512"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_network_on_real_sound(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Caller
) -> None:
    """A file of the published size, mel256 and int8, calibrated on a street; a head on it; a recording replayed."""
    monkeypatch.setattr(openl3_folder, "N_WINDOWS", 16)
    plain = write_h5(tmp_path / "weights.h5", named(random_layers()))
    file = tmp_path / "openl3_audio_mel256_env-v0_4_0.h5.gz"
    file.write_bytes(gzip.compress(plain.read_bytes(), compresslevel=1))
    base, model, data = tmp_path / "base", tmp_path / "model", tmp_path / "data"
    for label in ("rooster", "chainsaw"):
        for number, source in enumerate(sorted((recordings / "esc10" / "fold1" / label).iterdir())[:3]):
            (data / label).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, data / label / f"{number}.ogg")

    options = ["--input", "mel256", "--size", "512", "--calibrate", str(recordings / "sonyc"), "--out", str(base)]
    assert main(["import-openl3", str(file), *options]) == 0
    assert main(["head", "--base", str(base), "--data", str(data), "--out", str(model)]) == 0

    card = load_model_folder(base).card
    assert (card.name, card.embedding.output.shape) == ("openl3-mel256-env-512", (1, 512))
    assert card.embedding.input.scale == pytest.approx(80 / 255)
    assert card.embedding.input.zero_point == 127
    monkeypatch.setenv("URBANSOUND_MODEL__PATH", str(model))
    assert call("replay", data / "rooster" / "0.ogg").code == 0
