"""Published networks as opponents."""

from pathlib import Path

import numpy as np
import pytest

from agent.errors import ModelError
from model_export.peers import WaveformPeer, clip_targets, train_mlp
from tests.conftest import SHARED_DATA

YAMNET = SHARED_DATA.parent / "models" / "yamnet.tflite"


def test_a_peer_embeds_each_tenth_of_a_second() -> None:
    """YAMNet's 1024-d embedding comes for each window of 0.975 s, and tells sounds apart."""
    if not YAMNET.is_file():
        pytest.skip("yamnet.tflite is not at hand")
    peer = WaveformPeer(YAMNET)
    rng = np.random.default_rng(0)

    noise = peer.embeddings(0.1 * rng.standard_normal(32_000).astype(np.float32), 16_000)
    tone = peer.embeddings(np.sin(np.arange(44_100) * 2 * np.pi * 440 / 44_100).astype(np.float32), 44_100)

    assert peer.window_samples == 15_600
    assert noise.shape == (11, 1024)
    assert tone.shape == (1, 1024)
    assert np.linalg.norm(noise[0] - tone[0]) > np.linalg.norm(noise[0] - noise[5])


def test_a_file_that_takes_no_waveform_is_refused(packaged: Path) -> None:
    """The message says what the file takes and what was expected."""
    with pytest.raises(ModelError, match="expected one float32 waveform"):
        WaveformPeer(packaged / "embedding.tflite")


def test_the_papers_mlp_learns_what_can_be_told_apart() -> None:
    """Two clouds of embeddings are told apart on samples that it has not seen."""
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 2, 600)
    embeddings = (rng.normal(size=(600, 8)) + 2.0 * targets[:, None]).astype(np.float32)

    classifier = train_mlp(
        (embeddings[:400], targets[:400]), (embeddings[400:500], targets[400:500]), n_labels=2, seed=0
    )

    assert (classifier.predict(embeddings[500:], verbose=0).argmax(axis=1) == targets[500:]).mean() > 0.9


def test_each_window_carries_its_clips_label() -> None:
    """As in the paper: a training example is one window."""
    np.testing.assert_array_equal(clip_targets([3, 1], [2, 3]), [3, 3, 1, 1, 1])
