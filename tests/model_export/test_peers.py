"""Published networks as opponents."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from agent.errors import UsageError
from model_export.clips import LABELS, hold_out_fold, urbansound8k
from model_export.peers import SEEDS, peer_runs, peers_of
from model_export.published import PublishedNetwork
from tests.model_export.conftest import SMALL_RECIPE


def test_networks_of_the_same_name_are_told_apart(published: Path, tmp_path: Path) -> None:
    """Two files `loudness.tflite` of different folders are two systems; one of another name keeps its own."""
    same, other = tmp_path / published.name, tmp_path / "other.tflite"
    same.write_bytes(published.read_bytes() + b"\0")  # the same network with another hash
    shutil.copyfile(published, other)

    names = [peer.name for peer in peers_of([published, same, other])]

    assert names[0].startswith("loudness ")
    assert names[1].startswith("loudness ")
    assert len(set(names)) == 3
    assert names[2] == "other"


def test_the_same_network_twice_is_refused(published: Path, tmp_path: Path) -> None:
    """There is nothing to compare it with but itself."""
    again = shutil.copyfile(published, tmp_path / published.name)

    with pytest.raises(UsageError, match=f"--peer {again}: the same network twice"):
        peers_of([published, again])


@pytest.mark.slow
def test_a_peer_is_trained_with_each_seed_and_tested_on_each_fold(
    data_sets: tuple[Path, Path], published: Path
) -> None:
    """Each run judges the clips of its fold, in order; rows sum to 1."""
    train, test = hold_out_fold(urbansound8k(data_sets[0]), 2)

    runs = peer_runs(PublishedNetwork(published), train, {2: test, 9: test[:3]}, SMALL_RECIPE, labels=LABELS)

    assert [(run.system, run.fold, run.seed) for run in runs] == [
        ("loudness + MLP", fold, seed) for seed in SEEDS for fold in (2, 9)
    ]
    for run in runs:
        assert run.labels == LABELS
        assert run.clips == tuple(f"us8k {clip.file.name}" for clip in (test if run.fold == 2 else test[:3]))
        np.testing.assert_allclose(run.likelihoods.sum(axis=1), 1.0, atol=1e-3)
