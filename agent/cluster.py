"""A Dask cluster that judges recordings: the owner of `distributed`.

In: parts of recordings. Out: what the cluster's workers make of them. Called on the main thread, by `cli`. A part is
judged again where a worker is lost, so nothing is. Here and on the workers it needs the extra `[cluster]`, the same
version of the agent and the same model; the recordings are opened there, by the same path or address.
"""

import asyncio
import functools
import logging
import threading
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any

from agent import __version__
from agent.app import Judge
from agent.config import Config
from agent.errors import AgentError, ClusterError, ModelError, UsageError
from agent.workers import Judged, Part, Worker, judging_alone

CONNECT_S = 10.0
ANSWER_S = 2.0  # for the scheduler to say who is there; a signal waits as long
TRIES = 5  # how often a part may take a worker with it

_here = threading.local()


class Cluster:
    """The workers of a Dask cluster.

    Args:
        scheduler: its address, such as `tcp://10.0.0.1:8786`.
        judge: the workers' must be the same.

    Attributes:
        n: how many parts are judged at once: the threads of all workers.

    Raises:
        UsageError: `distributed` is not installed.
        ClusterError: no scheduler answers there, or it has no workers.
    """

    def __init__(self, scheduler: str, judge: Judge) -> None:
        try:
            import distributed
        except ImportError as error:
            raise UsageError("--dask needs distributed: in its source, pip install '.[cluster]'") from error
        self._scheduler = scheduler
        logging.getLogger("distributed").setLevel(logging.ERROR)  # what matters comes as an error
        try:
            # First: a client that cannot begin would end after 20 s, with a traceback, or wait for good.
            asyncio.run(_greet(scheduler))
            self._client: Any = distributed.Client(scheduler, timeout=CONNECT_S, set_as_default=False)
        # TypeError: TLS, and no certificate in Dask's configuration. MemoryError: what SSH says is taken for a length.
        except (OSError, ValueError, TypeError, MemoryError) as error:
            reason = str(error) or "somebody takes the connection and says nothing"
            raise ClusterError(f"--dask {scheduler}: no scheduler answers ({reason})") from error
        self.n = sum(self._client.nthreads().values())
        if self.n == 0:
            self._client.close()
            raise ClusterError(f"--dask {scheduler}: the scheduler has no workers, expected at least one")
        self._lost: tuple[type[Exception], ...] = (
            distributed.scheduler.KilledWorker,
            distributed.client.ClosedClientError,
            CancelledError,
            OSError,
        )
        self._executor = self._client.get_executor(pure=False, retries=TRIES)
        self._work = functools.partial(
            judge_part, judging_alone(judge.config).model_dump_json(), judge.model.sha256, __version__
        )

    def submit(self, part: Part) -> Future[Judged]:
        """Have a part judged by whichever worker is free.

        Raises:
            ClusterError: the cluster is gone.
        """
        try:
            future: Future[Judged] = self._executor.submit(self._work, part)
        except self._lost as error:
            raise self._gone(error) from error
        return future

    def has_workers(self) -> bool:
        """Whether the scheduler answers, and knows workers."""
        with suppress(*self._lost, AttributeError):  # the last: a client that gives up has no scheduler
            return bool(self._client.nthreads(callback_timeout=ANSWER_S))
        return False

    def broken(self, error: Exception) -> AgentError | None:
        """The scheduler is gone, no worker is left, or a part has taken worker after worker with it."""
        return self._gone(error) if isinstance(error, self._lost) else None

    def _gone(self, error: Exception) -> ClusterError:
        reason = str(error) or type(error).__name__
        return ClusterError(f"--dask {self._scheduler}: the cluster does not go on ({reason.splitlines()[0]})")

    def close(self) -> None:
        """Let go of the cluster, which stays."""
        with suppress(*self._lost):  # it has gone by itself
            self._executor.shutdown(wait=False)
        self._client.close()


async def _greet(scheduler: str) -> None:
    """See whether somebody answers there."""
    import distributed

    identity = distributed.Security().get_connection_args("client")
    async with asyncio.timeout(CONNECT_S + ANSWER_S):
        answer = await distributed.comm.connect(scheduler, CONNECT_S, **identity)
        await answer.close()


def judge_part(config: str, model_sha256: str, version: str, part: Part) -> Judged:
    """Called on a worker of the cluster.

    Args:
        config: as JSON; each of the worker's threads makes its own judge of it, once.
        model_sha256: of the model of who asks.
        version: of the agent of who asks.
        part: what to judge.

    Raises:
        ModelError: the worker has another agent or another model.
        RecordingError: the recording cannot be opened there.
    """
    if version != __version__:
        raise ModelError(f"a worker has version {__version__} of the agent, expected {version}")
    if getattr(_here, "config", None) != config:
        _here.worker = Worker(Config.model_validate_json(config), stopped=lambda: False)
        _here.config = config
    worker: Worker = _here.worker
    if worker.model_sha256 != model_sha256:
        raise ModelError(f"a worker has a model with sha256 {worker.model_sha256}, expected {model_sha256}")
    return worker.judge(part)
