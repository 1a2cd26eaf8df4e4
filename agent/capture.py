"""The microphone, read on its own thread into the ring.

In: a device, by blocking reads on the thread `capture`. Out: mono samples in the `Ring`, with what was lost before
them. `Microphone.open` and `start` are called by one thread, `stop` perhaps by another, `snapshot` and `anchor` by any.

PortAudio can hang for good when the sound server freezes, so opening and closing are done on a thread of their own,
under a deadline; what is hung is never touched again, and the process should end by `os._exit`.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeVar

from agent.errors import DeviceAwayError, DeviceError, DeviceHungError
from agent.mono import Channel, to_mono
from agent.portaudio import OpenStream, Stream, StreamSettings, open_portaudio
from agent.ring import Ring
from agent.values import FloatArray

log = logging.getLogger(__name__)

GapCause = Literal["device", "dropped"]
State = Literal["new", "waiting", "open", "running", "stopped", "hung", "failed"]
T = TypeVar("T")

BLOCK_S = 0.2  # as sound servers hand it over; half of it would take a quarter more of the processor
BACKOFF_S = (1.0, 30.0)
OPEN_DEADLINE_S = 30.0  # PortAudio looks at all devices when it is initialised: seconds on a small board
CLOSE_DEADLINE_S = 4.0  # ordinarily some 0.1 s


class ArrivalClock:
    """Holds the samples that arrive against the monotonic clock: how many are missing, and when each was heard.

    The *lateness* of a read is the time since the start minus the duration of all samples up to its end, the lost ones
    included. A sample cannot arrive before it was heard, so the least lateness of the last seconds is the best estimate
    of no delay: the *baseline*. It falls at once, and rises to the least of `FOLLOW_S` when they are over, so it
    follows a sound card whose rate is hundreds of ppm off (3 ms in `FOLLOW_S` at 300 ppm).

    Samples are missing when reads are later than the baseline by more than `LOST_S` and stay so for `PERSIST_S`.
    Jitter does not stay: sound servers deliver in bursts of 0.2 s, but within a second some read comes in time. Nor
    does backlog: a reader that was held up for seconds finds its samples waiting, and a read that does not wait proves
    nothing. So a loss that nobody reported is known about a second after it happened, and is told with the block that
    comes then. A shorter one cannot be told from jitter; it shifts the times for at most `FOLLOW_S`. Where a gap is
    known (PortAudio's flag, a reopened device), it is told at once: what is missing by the clock, at least 1.

    Args:
        sample_rate_hz: nominal rate of the samples.
    """

    LOST_S = 0.3
    PERSIST_S = 1.0
    FOLLOW_S = 10.0

    def __init__(self, sample_rate_hz: int) -> None:
        self._rate_hz = sample_rate_hz
        self._next_sample = 0
        self._baseline_s = float("inf")
        self._follow_since_s = 0.0
        self._follow_least_s = float("inf")
        self._late_since_s: float | None = None
        self._late_least_s = float("inf")

    def arrived(self, n_samples: int, *, asked_s: float, came_s: float, gap: bool = False) -> int:
        """Take note of a read.

        Args:
            n_samples: how many it gave.
            asked_s: monotonic time when it was asked for.
            came_s: monotonic time when it came.
            gap: some are known to be lost before it.

        Returns:
            How many samples were lost before it.
        """
        self._next_sample += n_samples
        lateness_s = came_s - self._next_sample / self._rate_hz
        if lateness_s < self._baseline_s:
            self._set_baseline(lateness_s, came_s)
        excess_s = lateness_s - self._baseline_s
        lost = 0
        if gap:
            lost = max(1, round(excess_s * self._rate_hz))
        elif excess_s > self.LOST_S:
            waited = came_s - asked_s > 0.25 * n_samples / self._rate_hz
            lost = self._lost_silently(lateness_s, came_s, waited=waited)
        else:
            self._late_since_s = None
            self._follow(lateness_s, came_s)
        if lost:
            self._next_sample += lost
            self._late_since_s = None
        return lost

    @property
    def anchor(self) -> tuple[int, float]:
        """The index of the sample after the newest one, and the monotonic time at which it was heard."""
        return self._next_sample, self._baseline_s + self._next_sample / self._rate_hz

    def _set_baseline(self, lateness_s: float, now_s: float) -> None:
        self._baseline_s = lateness_s
        self._follow_since_s = now_s
        self._follow_least_s = float("inf")

    def _follow(self, lateness_s: float, now_s: float) -> None:
        self._follow_least_s = min(self._follow_least_s, lateness_s)
        if now_s - self._follow_since_s >= self.FOLLOW_S:
            self._set_baseline(self._follow_least_s, now_s)

    def _lost_silently(self, lateness_s: float, now_s: float, *, waited: bool) -> int:
        if self._late_since_s is None:
            self._late_since_s, self._late_least_s = now_s, lateness_s
        self._late_least_s = min(self._late_least_s, lateness_s)
        if not waited or now_s - self._late_since_s < self.PERSIST_S:
            return 0
        return round((self._late_least_s - self._baseline_s) * self._rate_hz)


@dataclass(frozen=True, slots=True)
class CaptureSnapshot:
    """How capture is doing, at one moment.

    Attributes:
        state: `new`, `waiting` for the device, `open` but not begun, `running`, `stopped`, `hung` in PortAudio, or
            `failed` by a bug. From the last three there is no way back, and the ring is closed.
        captured_samples: samples that came.
        lost_samples: samples that the device or the sound server lost, or that passed while the device was away.
        invalid_samples: NaN, infinite and other samples that cannot be sound, replaced by 0.
        overflows: how often PortAudio said that some were lost.
        reopened: how often a lost device was found again.
    """

    state: State
    captured_samples: int
    lost_samples: int
    invalid_samples: int
    overflows: int
    reopened: int


class Microphone:
    """A microphone that is opened when it is there, and again when it comes back.

    First `open`, which tells the rate; then `start` with a ring; in the end `stop`. Not to be used twice.

    Args:
        device: see `find_device`.
        sample_rate_hz: None for the device's default.
        channel: counted from 1, or the mean of all that are opened.
        channels: how many to open; None for as many as `channel` needs, for a mix at most two (a microphone array with
            more should say so).
        block_s: how much is read at a time.
        open_stream: how a device is opened; called with the settings, and whether to look for new devices.
        monotonic: seconds on a clock that never steps.
        backoff_s: the first and the longest wait between two attempts to open; each is twice the one before.
        open_deadline_s: how long opening may take before PortAudio counts as hung.
        close_deadline_s: the same for closing.
    """

    def __init__(
        self,
        *,
        device: str | int | None = None,
        sample_rate_hz: int | None = None,
        channel: Channel = "mix",
        channels: int | None = None,
        block_s: float = BLOCK_S,
        open_stream: OpenStream = open_portaudio,
        monotonic: Callable[[], float] = time.monotonic,
        backoff_s: tuple[float, float] = BACKOFF_S,
        open_deadline_s: float = OPEN_DEADLINE_S,
        close_deadline_s: float = CLOSE_DEADLINE_S,
    ) -> None:
        self._settings = StreamSettings(device, sample_rate_hz, channel, channels, block_s)
        self._open_stream = open_stream
        self._monotonic = monotonic
        self._backoff_s = backoff_s
        self._open_deadline_s = open_deadline_s
        self._close_deadline_s = close_deadline_s
        self._stopping = threading.Event()
        self._giving_back = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ring: Ring | None = None
        self._stream: Stream | None = None
        self._state: State = "new"
        self._attempts = 0
        self._n_captured = self._n_lost = self._n_invalid = self._n_overflows = self._n_reopened = 0
        self._anchor: tuple[int, float] | None = None
        self._gaps: deque[tuple[int, GapCause]] = deque(maxlen=1000)  # first sample after each

    def open(self) -> int | None:
        """Open the device; while it is not there, wait for it.

        Returns:
            The sample rate in Hz, which stays; None if `stop` was called meanwhile.

        Raises:
            DeviceError: waiting would not help: no PortAudio, an ambiguous name, a refused rate, too few channels.
            DeviceHungError: PortAudio hangs.
        """
        self._stream = self._opened(self._delays(), patient=False)
        if self._stream is None or self._stopping.is_set():
            self._close()
            self._state = "stopped"
            return None
        self._settings = replace(self._settings, sample_rate_hz=self._stream.sample_rate_hz)
        return self._stream.sample_rate_hz

    def cause_of_gap(self, first_sample: int) -> GapCause:
        """Why samples were lost just before this one: the `device` was away, or they were `dropped`.

        For the pipeline thread, which asks for one gap after the other.
        """
        cause: GapCause = "dropped"
        while self._gaps and self._gaps[0][0] <= first_sample:
            _, cause = self._gaps.popleft()
        return cause

    def abandon(self) -> None:
        """A read does not come back, or not with what was promised: PortAudio is touched no more, `hung` is true."""
        self._stopping.set()
        self._hang()

    def start(self, ring: Ring) -> None:
        """Let the sound flow into the ring, on the thread `capture`, until `stop`; in the end the ring is closed."""
        if self._stream is None or self._thread is not None:
            raise RuntimeError(f"the microphone is {self._state}, expected open")
        self._ring = ring
        self._thread = threading.Thread(target=self._run, args=(ring,), name="capture", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End capture and give the device back; returns in time even if PortAudio hangs: then `hung` is true.

        Not from a signal handler, which may have interrupted the wait that this would end.
        """
        self._stopping.set()
        if self._thread is not None:
            # Time for a read that is under way, and for closing, which has its own deadline.
            self._thread.join(self._settings.block_s + 2 * self._close_deadline_s)
            if self._thread.is_alive():
                self._hang()
        else:
            with contextlib.suppress(DeviceHungError):  # `hung` says it
                self._close()
                self._state = "stopped"

    @property
    def hung(self) -> bool:
        """Whether PortAudio hangs: leave by `os._exit(74)`, or the process never ends."""
        return self._state == "hung"

    def snapshot(self) -> CaptureSnapshot:
        """The counters now."""
        return CaptureSnapshot(
            state=self._state,
            captured_samples=self._n_captured,
            lost_samples=self._n_lost,
            invalid_samples=self._n_invalid,
            overflows=self._n_overflows,
            reopened=self._n_reopened,
        )

    def anchor(self) -> tuple[int, float] | None:
        """A sample index and the monotonic time at which it was heard: sample n was heard (n - index) / rate later.

        It is kept up to date with every block, and follows gaps and the drift of the sound card; so take it anew rather
        than keep it for hours. None before the first block.
        """
        return self._anchor

    def _run(self, ring: Ring) -> None:
        clock = ArrivalClock(self._settings.sample_rate_hz or 0)
        delays = self._delays()
        try:
            while self._stream is not None:
                n_before = self._n_captured
                self._read_while_there(self._stream, ring, clock)
                self._close()
                if self._n_captured > n_before:
                    delays = self._delays()
                # Not at once: a device that opens and then fails would keep us busy with nothing else.
                if self._stopping.is_set() or self._stopping.wait(next(delays)):
                    break
                self._stream = self._opened(delays, patient=True)
                self._n_reopened += self._stream is not None
            self._state = "stopped"
        except DeviceHungError as error:
            log.critical("capture.hung reason=%s", error)
        except BaseException:
            self._state = "failed"
            raise
        finally:
            ring.close()

    def _read_while_there(self, stream: Stream, ring: Ring, clock: ArrivalClock) -> None:
        n_samples = round(self._settings.block_s * stream.sample_rate_hz)
        gap = self._n_captured > 0
        try:
            stream.start()
            self._state = "running"
            while not self._stopping.is_set():
                asked_s = self._monotonic()
                samples, overflowed = stream.read(n_samples)
                came_s = self._monotonic()
                lost = clock.arrived(len(samples), asked_s=asked_s, came_s=came_s, gap=gap or overflowed)
                if lost:
                    self._gaps.append((clock.anchor[0] - len(samples), "device" if gap else "dropped"))
                gap = False
                ring.write(self._mono(samples), lost)
                self._n_captured += len(samples)
                self._n_lost += lost
                self._n_overflows += overflowed
                self._anchor = clock.anchor
        except DeviceAwayError as error:
            self._state = "waiting"
            log.warning("capture.lost reason=%s", error)

    def _mono(self, samples: FloatArray) -> FloatArray:
        mono, n_invalid = to_mono(samples, self._settings.channel)
        self._n_invalid += n_invalid
        return mono

    def _delays(self) -> Iterator[float]:
        delay_s, longest_s = self._backoff_s
        while True:
            yield min(delay_s, longest_s)
            delay_s *= 2

    def _opened(self, delays: Iterator[float], *, patient: bool) -> Stream | None:
        """Open the device, waiting for it; None when told to stop. Once it has run, every trouble is waited out."""
        while not self._stopping.is_set():
            refresh = self._attempts > 0
            self._attempts += 1
            try:
                stream = self._in_time(
                    partial(self._open_stream, self._settings, refresh), "open", self._open_deadline_s
                )
                self._check_rate(stream)
            except DeviceHungError:
                raise
            except DeviceError as error:
                if not patient and not isinstance(error, DeviceAwayError):
                    raise
                self._state = "waiting"
                delay_s = next(delays)
                log.warning("capture.waiting retry_s=%g reason=%s", delay_s, error)
                self._stopping.wait(delay_s)
            else:
                log.info("capture.opened device=%s rate_hz=%d", stream.description, stream.sample_rate_hz)
                self._state = "open"
                return stream
        return None

    def _check_rate(self, stream: Stream) -> None:
        expected_hz = self._settings.sample_rate_hz
        if expected_hz is not None and stream.sample_rate_hz != expected_hz:
            self._in_time(stream.close, "close", self._close_deadline_s)
            raise DeviceError(
                f"input device {stream.description} runs at {stream.sample_rate_hz} Hz, expected {expected_hz} Hz"
            )

    def _close(self) -> None:
        with self._giving_back:  # `stop` may come while `open` closes: a stream is closed once
            stream, self._stream = self._stream, None
        if stream is not None:
            self._in_time(stream.close, "close", self._close_deadline_s)

    def _in_time(self, call: Callable[[], T], verb: str, deadline_s: float) -> T:
        """Call PortAudio on a thread of its own: if it hangs, that thread is left behind."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001  a thread's edge; raised again by result()
                future.set_exception(error)

        threading.Thread(target=run, name=f"capture-{verb}", daemon=True).start()
        try:
            return future.result(deadline_s)
        except TimeoutError as error:
            self._hang()
            raise DeviceHungError(f"the sound system does not {verb} within {deadline_s:g} s") from error

    def _hang(self) -> None:
        self._state = "hung"
        if self._ring is not None:
            self._ring.close()
