"""Promises of `benchmarks`: sums and tables are right. Times are measured there, not here."""

from pathlib import Path

import numpy as np
import pytest

from agent.accelerator import golden_windows
from agent.config import InferenceConfig
from agent.inference import Classifier
from agent.model_card import ModelFolder, TensorCard
from benchmarks.__main__ import main, peer_table
from benchmarks.large import FILTERS, FRONT_END, write_large_model
from benchmarks.limit import multiplications
from benchmarks.live import listen, live_table
from benchmarks.systems import Measured
from model_export.mlp import Mlp
from model_export.tflite_mlp import write_mlp


def test_multiplications_of_dense_layers_are_counted(tmp_path: Path) -> None:
    """Each weight of a dense layer is used once."""
    weights = np.ones((24, 32), np.float32), np.ones((32, 5), np.float32)
    mlp = Mlp(weights, (np.zeros(32, np.float32), np.zeros(5, np.float32)))
    reads = TensorCard(shape=(1, 24), dtype="int8", scale=0.03, zero_point=-128)
    write_mlp(mlp, reads, np.ones((4, 24), np.float32), tmp_path / "mlp.tflite")

    assert multiplications(tmp_path / "mlp.tflite") == 24 * 32 + 32 * 5


def test_multiplications_of_convolutions_are_counted(model: ModelFolder) -> None:
    """Of the default model's windows, each is some six times what eight new frames need."""
    assert model.streaming_file is not None
    assert model.card.streaming is not None
    windowed, streaming = multiplications(model.embedding_file), multiplications(model.streaming_file)

    assert model.card.front_end.n_frames / model.card.streaming.chunk_frames > windowed / streaming > 5.0


def test_systems_are_compared_with_the_first() -> None:
    """One line each, in order, with its speed and the factor."""
    lines = list(peer_table([Measured("ours", 2.0, 90.4), Measured("theirs", 500.0, 1500.0)]))

    assert lines[2:] == ["| ours | 2.00 | 500.0 | 1.0 | 90 |", "| theirs | 500.00 | 2.0 | 250.0 | 1500 |"]


def test_a_file_that_is_not_there_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Not as a traceback after minutes of measuring."""
    monkeypatch.setattr("benchmarks.__main__.bench", None)

    with pytest.raises(SystemExit, match="2"):
        main(["--yamnet", str(tmp_path / "yamnet.tflite")])

    assert f"--yamnet {tmp_path}/yamnet.tflite: no such file" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_agent_is_looked_at_while_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real sound card, broker and notify socket: it gets ready, hears, and its table tells of it."""
    monkeypatch.setattr("benchmarks.live.WARM_S", 3.0)

    listened = listen(1.0)

    assert listened.ready_s > 1.0, "a window of sound comes first"
    assert 0.0 < listened.ready_cpu_s < listened.ready_s + 5.0
    assert listened.cpu_share > 0.0
    assert listened.resident_mib > 20.0
    assert listened.health["captured_s"] != 0
    assert f"| resident memory | {listened.resident_mib:.0f} MiB |" in list(live_table(listened))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """The same with fewer bands and filters, which is quickly converted."""
    small = FRONT_END.model_copy(update={"n_mels": 32})
    return write_large_model(tmp_path_factory.mktemp("large"), small, (4, 4, 8, 8))


@pytest.mark.slow
def test_the_large_model_is_a_model_whose_forms_agree(large: ModelFolder) -> None:
    """The agent loads and streams it, and each window has the embedding that it has alone."""
    windows = golden_windows(large.card, streaming=True)

    windowed, streaming = Classifier(large), Classifier(large, streaming=True)

    assert large.card.streaming is not None
    embeddings = [windowed.predict(window).embedding for window in windows]
    assert len({embedding.tobytes() for embedding in embeddings}) > 1
    for window, embedding in zip(windows, embeddings, strict=True):
        assert streaming.predict(window).embedding.tobytes() == embedding.tobytes()


def test_a_hop_of_the_large_model_is_a_whole_number_of_chunks() -> None:
    """Or it could not stream at the default hop."""
    chunk_s = 2 ** (len(FILTERS) - 1) * FRONT_END.hop_length_samples / FRONT_END.sample_rate_hz

    assert InferenceConfig().window_hop_s / chunk_s == pytest.approx(2.0)
