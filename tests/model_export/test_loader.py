"""Batches that other processes prepare."""

import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest

from model_export.augment import Augmentation, WindowDrawer
from model_export.clips import urbansound8k
from model_export.loader import Loader, Taught
from model_export.published import PublishedNetwork
from model_export.teachers import Teachers
from model_export.train import training_clips
from tests.broker import wait_until
from tests.conftest import REPOSITORY
from tests.model_export.conftest import SMALL_RECIPE


@pytest.fixture
def school(published: Path) -> Teachers:
    """One teacher."""
    return Teachers([PublishedNetwork(published)], map_weights=(0.2, 0.7, 0.7), embedding_weight=3.0)


def drawers_of(data_set: Path) -> list[WindowDrawer]:
    """Two that draw otherwise."""
    clips = training_clips(urbansound8k(data_set), SMALL_RECIPE)
    return [WindowDrawer(clips, Augmentation(), 1), WindowDrawer(clips, Augmentation(mixup_probability=0.0), 2)]


@pytest.mark.parametrize("n_processes", [1, 3])
def test_it_does_not_matter_who_prepares_a_batch(
    data_sets: tuple[Path, Path], school: Teachers, n_processes: int
) -> None:
    """The same batches and lessons in the same order, epoch after epoch and whichever drawer, with other processes."""

    def two_epochs(n: int) -> list[Taught]:
        drawers = drawers_of(data_sets[0])
        with Loader(drawers, school, n) as loader:
            return [taught for drawer in (1, 0, 1) for taught in loader.epoch(drawers[drawer], 4)]

    here, there = two_epochs(0), two_epochs(n_processes)

    assert len(here) == len(there) > 3
    for one, other in zip(here, there, strict=True):
        for values, same in zip((*one.batch, *one.said), (*other.batch, *other.said), strict=True):
            np.testing.assert_array_equal(values, same)


def test_what_was_prepared_in_vain_is_thrown_away(data_sets: tuple[Path, Path], school: Teachers) -> None:
    """Training may end within an epoch: nothing waits for the rest of it."""
    drawers = drawers_of(data_sets[0])
    with Loader(drawers, school, 2) as loader:
        first = next(loader.epoch(drawers[0], 2))

    assert len(first.batch.window) == 2


def test_processes_do_not_outlive_a_parent_that_was_killed(data_sets: tuple[Path, Path]) -> None:
    """The system may end it for want of memory: they would keep all the clips there for good."""
    program = (
        "import sys, time; from pathlib import Path; from model_export.loader import Loader\n"
        "from model_export.teachers import Teachers; from tests.model_export.test_loader import drawers_of\n"
        "drawers = drawers_of(Path(sys.argv[1]))\n"
        "loader = Loader(drawers, Teachers([], map_weights=(0.2, 0.7, 0.7), embedding_weight=3.0), 2)\n"
        "next(loader.epoch(drawers[0], 2)); print(*loader._pool._processes, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", program, str(data_sets[0])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as parent:
        assert parent.stdout is not None
        processes = [Path(f"/proc/{number}") for number in parent.stdout.readline().split()]
        parent.kill()

    assert len(processes) == 2
    wait_until(lambda: not any(process.exists() for process in processes), "the processes to be gone")


def test_a_process_that_dies_is_not_waited_for(data_sets: tuple[Path, Path], school: Teachers) -> None:
    """The system may end one for want of memory: that is an error, not silence."""
    drawers = drawers_of(data_sets[0])
    with Loader(drawers, school, 1) as loader:
        assert loader._pool is not None
        (process,) = loader._pool._processes.values()
        process.kill()
        with pytest.raises(BrokenProcessPool):
            list(loader.epoch(drawers[0], 2))
