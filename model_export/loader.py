"""Batches for training, with what the teachers say of them: prepared here, or by other processes ahead of time.

In: drawers of windows, and teachers. Out: batches and lessons, in an order and with values that do not depend on who
prepared them. Drawing a window and asking a teacher cost about a third of what learning from it costs on a core, and
many times that of a GPU.
"""

import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import NamedTuple, Self

from agent.stop import end_with
from agent.values import FloatArray
from model_export.augment import Draw, Example, WindowDrawer
from model_export.teachers import Teachers

AHEAD = 2  # batches for each process


class Taught(NamedTuple):
    """What is learnt from at once.

    Attributes:
        batch: windows, labels and sounds.
        said: for each lesson of the teachers, what is to be predicted of the windows.
    """

    batch: Example
    said: list[FloatArray]


class Loader:
    """Prepares batches.

    The processes are forked, so that they share the clips in memory; they never call Keras, whose threads and devices
    do not survive that. Use it as a context manager, or close it.

    Args:
        drawers: all that will be drawn from.
        school: the teachers, their units settled.
        n_processes: beside this one; 0 for none.

    Attributes:
        school: the teachers.
    """

    def __init__(self, drawers: Sequence[WindowDrawer], school: Teachers, n_processes: int = 0) -> None:
        self.school = school
        self._drawers = list(drawers)
        self._ahead = AHEAD * n_processes
        self._pool = None
        if n_processes:
            _HERE[:] = [self]
            self._pool = ProcessPoolExecutor(
                n_processes, multiprocessing.get_context("fork"), initializer=_end_with_parent
            )
            self._pool.submit(_ready).result()  # the first task forks them all
            _HERE.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; what they have prepared is not wanted."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def epoch(self, drawer: WindowDrawer, batch_size: int) -> Iterator[Taught]:
        """An epoch of one of the drawers."""
        if self._pool is None:
            yield from (self._taught(drawer, draw) for draw in drawer.plan(batch_size))
            return
        number = self._drawers.index(drawer)
        coming: deque[Future[Taught]] = deque()
        for draw in drawer.plan(batch_size):
            coming.append(self._pool.submit(_prepare, number, draw))
            if len(coming) > self._ahead:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()

    def _taught(self, drawer: WindowDrawer, draw: Draw) -> Taught:
        batch = drawer.batch(draw)
        return Taught(batch, self.school.say(batch.sound))


_HERE: list[Loader] = []  # while processes are forked, and in them


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for it for good, with all the clips in memory."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    end_with(parent.sentinel)


def _ready() -> None:
    """There is a process."""


def _prepare(number: int, draw: Draw) -> Taught:
    (loader,) = _HERE
    return loader._taught(loader._drawers[number], draw)
