"""The sensor, live: microphone to broker, until it is told to stop.

In: the configuration. Out: an exit code. Four threads: `capture` reads the microphone into the ring, `pipeline` makes
events of it and spools them, `publisher` delivers them, and the main thread, here, looks after signals and systemd.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from agent import pipeline
from agent.accounts import Accounts
from agent.app import Judge, Stages
from agent.capture import Microphone
from agent.clock import Timeline
from agent.config import Config
from agent.errors import AgentError, DeviceHungError
from agent.health import Health, Heartbeat
from agent.hours import Hours
from agent.intervals import Intervals
from agent.liveness import Liveness
from agent.lookout import Lookout
from agent.outbox import Outbox, coverage_file
from agent.pace import Pace
from agent.reload import Reloader
from agent.ring import Ring
from agent.stop import Stop, StopSignals
from agent.values import AudioBlock, EndReason, GapCause, LevelReading, SoundEvent

log = logging.getLogger(__name__)

LOOK_AFTER_S = 1.0
LOOK_AT_FIRST_S = 0.05  # until sound is analysed: systemd waits for READY
READ_S = 1.0  # at most: what waits is judged at once, which costs less
SILENT_S = 5.0  # sound servers stutter for 3 s, and then deliver everything
GIVE_UP_S = 5.0  # of `stalled`: what hangs longer is left, and systemd starts us anew
ABANDONED_S = 2.0  # an analysis that hangs does not finish
FINISH_S = 20.0  # at shutdown, for the pipeline to work off what is in the ring


class Sensor:
    """Microphone, pipeline and outbox of one source.

    Args:
        microphone: not yet open.
        judge: the model and the rules.
        outbox: where events go; open.
        stop: when to stop.
        hours: where coverage is kept; closed in the end.
        ring_s: how far the analysis may fall behind.
        silent_s: without a sample for so long, an open event ends.
        give_up_s: when too little is captured or analysed for so long, the sensor leaves for a fresh start.
        reloader: what brings new configurations; None where there are none.
    """

    def __init__(
        self,
        microphone: Microphone,
        judge: Judge,
        outbox: Outbox,
        stop: Stop,
        hours: Hours,
        *,
        ring_s: float,
        silent_s: float = SILENT_S,
        give_up_s: float = GIVE_UP_S,
        reloader: Reloader | None = None,
    ) -> None:
        self._microphone = microphone
        self._judge = judge
        self._outbox = outbox
        self._stop = stop
        self._ring_s = ring_s
        self._silent_s = silent_s
        self._give_up_s = give_up_s
        self._reloader = reloader
        self._health = Health()
        started_s = outbox.clock.monotonic()
        self._accounts = Accounts(hours, outbox.tell_gap, now_s=started_s, reckoning=outbox.clock.reckon())
        self._lookout = Lookout(
            self._accounts,
            self._health,
            say_liveness=outbox.say_liveness,
            say_health=outbox.say_health,
            now_s=started_s,
            now=outbox.clock.now,
        )
        self._ring: Ring | None = None
        self._overwritten = 0
        self._failure: BaseException | None = None
        self._heard = False
        self._reloading = False
        self._accelerator = judge.accelerator
        self._sample_rate_hz = 0
        self._starting = threading.Lock()
        self._pipeline = threading.Thread(target=self._run_pipeline, name="pipeline", daemon=True)

    def run(self, heartbeat: Heartbeat) -> None:
        """Listen until told to stop or something fails; then end what is open.

        Raises:
            DeviceHungError: PortAudio hangs, and would hang a clean exit as well.
            AgentError: whatever else stopped the sensor.
        """
        accelerator = self._accelerator
        log.info(
            "accelerator.chosen name=%s asked=%s reason=%s", accelerator.name, accelerator.asked, accelerator.reason
        )
        self._pipeline.start()
        stalled = None
        while stalled is None and self._pipeline.is_alive():
            if self._stop.wait(LOOK_AFTER_S if self._heard else LOOK_AT_FIRST_S):
                break
            self._look_after_reloads(heartbeat)
            now_s = self._outbox.clock.monotonic()
            stalled = self._look(now_s)
            analysed = self._health.analysed_samples if self._heard else 0
            heartbeat.push(analysed / (self._sample_rate_hz or 1), now_s, self._status())
            if self._accelerator != self._judge.accelerator:
                self._accelerator = self._judge.accelerator
                self._outbox.publisher.announce_again()
        heartbeat.stop()
        with self._starting:  # a microphone that is just being started would be missed
            self._microphone.stop() if stalled is None else self._microphone.abandon()
        self._pipeline.join(FINISH_S if stalled is None or stalled.cause != "analysis" else ABANDONED_S)
        self._accounts.finish(self._outbox.clock.monotonic())
        if stalled is not None:
            raise DeviceHungError(f"stalled for {self._give_up_s:g} s ({stalled.cause}), expected sound to move on")
        if self._microphone.hung:
            raise DeviceHungError(str(self._failure or "the sound system does not close"))
        if self._failure is not None:
            raise self._failure
        if self._pipeline.is_alive():
            raise DeviceHungError(f"the pipeline did not finish within {FINISH_S:g} s")
        if not self._stop.is_set():
            raise AgentError(f"capture is {self._microphone.snapshot().state}, expected sound until a signal comes")

    def _look(self, now_s: float) -> Liveness | None:
        """Look whether it hears; gives why to leave, where sound has not moved on for too long."""
        waiting = self._ring.waiting if self._ring is not None else 0
        self._lookout.look(now_s, self._microphone.snapshot(), sample_rate_hz=self._sample_rate_hz, waiting=waiting)
        return self._lookout.hopeless(now_s, self._give_up_s)

    def _look_after_reloads(self, heartbeat: Heartbeat) -> None:
        if self._reloader is None:
            return
        if self._reloader.asked:
            self._reloading = True
            heartbeat.reloading(time.monotonic_ns() // 1000)
            self._reloader.read()
        if self._reloading and self._reloader.settled:
            self._reloading = False
            heartbeat.reloaded()

    def _run_pipeline(self) -> None:
        try:
            sample_rate_hz = self._microphone.open()
            if sample_rate_hz is None:
                return
            self._sample_rate_hz = sample_rate_hz
            ring = self._ring = Ring(round(self._ring_s * sample_rate_hz))
            timeline = Timeline(sample_rate_hz, self._outbox.clock)
            self._accounts.begin(sample_rate_hz)
            tell = self._outbox.teller(sample_rate_hz, timeline.utc_of, timeline.look)
            stages = self._judge.stages(sample_rate_hz)

            def emit(event: SoundEvent) -> None:
                self._follow(timeline)
                tell(event)
                if event.state == "start":
                    self._health.count_event()
                log.info("event.%s label=%s likelihood_peak=%.2f", event.state, event.label, event.likelihood_peak)

            def judged(_prediction: object) -> None:
                self._heard = True

            intervals = Intervals(
                timeline,
                interval_s=self._judge.config.levels.interval_s,
                account=self._accounts.total,
                tell=self._outbox.tell_level,
            )
            readings: list[LevelReading] = []
            pace = Pace(self._judge.widest)
            with self._starting:
                if self._stop.is_set():
                    return
                self._microphone.start(ring)
            blocks = self._measured(self._blocks(ring, timeline), readings, intervals)
            pipeline.run(
                self._reloaded(self._keeping_up(blocks, ring, pace, stages), stages, emit),
                stages.front_end,
                self._judge.classifier,
                stages.aggregator,
                stages.detector,
                emit,
                levels=stages.levels,
                end_reason=self._end_reason,
                judged=judged,
                measured=readings.extend,
            )
        except BaseException as error:  # noqa: BLE001  a thread's edge; raised again by run()
            self._failure = error

    def _follow(self, timeline: Timeline) -> None:
        """Hold the timeline against capture, which knows when samples came, and against the wall clock."""
        anchor = self._microphone.anchor()
        if anchor is not None:
            timeline.anchor(*anchor)
        timeline.look()

    def _blocks(self, ring: Ring, timeline: Timeline) -> Iterator[AudioBlock]:
        """The stream until the ring is closed and empty. A block counts as analysed when the next is asked for.

        When nothing comes for `silent_s`, a block without samples tells of a gap: how long it is, nobody knows yet, and
        an open event must not wait for that.
        """
        max_samples = max(1, round(READ_S * self._sample_rate_hz))
        next_sample: int | None = None
        while not (ring.closed and ring.waiting == 0):
            block = ring.read(self._silent_s, max_samples)
            if block is None:
                if not ring.closed:
                    yield AudioBlock(np.empty(0, np.float32), next_sample or 0, lost_before=1)
                continue
            self._follow(timeline)
            if block.lost_before or next_sample is None:
                cause = self._cause_of_gap(block, ring)
                self._accounts.lose(block, cause, timeline)
            if block.lost_before:
                self._health.count_gap(block.lost_before)
                log.warning("capture.gap lost_s=%.3f cause=%s", block.lost_before / self._sample_rate_hz, cause)
            next_sample = block.first_sample + len(block.samples)
            yield block
            self._health.count_analysed(len(block.samples))
            self._accounts.hear(block, timeline)

    @staticmethod
    def _measured(
        blocks: Iterator[AudioBlock], readings: list[LevelReading], intervals: Intervals
    ) -> Iterator[AudioBlock]:
        """The same blocks; what was measured in one is gathered once that is analysed and accounted for."""
        for block in blocks:
            intervals.push(readings)
            readings.clear()
            if block.lost_before:
                intervals.finish()
            yield block
        intervals.push(readings)
        intervals.finish()

    def _cause_of_gap(self, block: AudioBlock, ring: Ring) -> GapCause:
        before, self._overwritten = self._overwritten, ring.overwritten
        at_the_device = self._microphone.cause_of_gap(block.first_sample)
        return "overrun" if 2 * (self._overwritten - before) > block.lost_before else at_the_device

    def _keeping_up(self, blocks: Iterator[AudioBlock], ring: Ring, pace: Pace, stages: Stages) -> Iterator[AudioBlock]:
        """The same blocks; where the board is too slow for them, windows come less often before sound is lost."""
        rate_hz, hop_s = self._sample_rate_hz, self._judge.window_hop_s
        for block in blocks:
            before, late_s = pace.factor, ring.waiting / rate_hz
            factor = pace.push(block.first_sample / rate_hz, late_s)
            if factor != before:
                stages.widen(factor)
                log.warning("pipeline.hop window_hop_s=%g late_s=%.1f", factor * hop_s, late_s)
            self._health.note_pace(late_s, factor * hop_s if factor > 1 else None)
            yield block

    def _reloaded(
        self, blocks: Iterator[AudioBlock], stages: Stages, emit: Callable[[SoundEvent], None]
    ) -> Iterator[AudioBlock]:
        """The same blocks; between two of them a new configuration comes into effect, as a whole."""
        for block in blocks:
            if self._reloader is not None and (new := self._reloader.pending()) is not None:
                for end in stages.change(new.judge):
                    emit(end)
                self._judge = new.judge
                self._outbox.change(new.change.config, new.judge, new.options)
                self._reloader.done(new)
            yield block

    def _end_reason(self) -> EndReason:
        return "shutdown" if self._stop.is_set() else "gap"

    def _status(self) -> str:
        news = None if self._reloader is None else self._reloader.status
        return ", ".join(filter(None, (self._health_status(), news)))

    def _health_status(self) -> str:
        if not self._heard:
            return "waiting for the microphone"
        delivery = self._outbox.publisher.delivery()
        line = self._health.snapshot(
            connected=delivery.connected,
            delivered=delivery.delivered,
            queued=delivery.queued,
            dropped=delivery.dropped,
            liveness=self._lookout.in_words(),
            coverage_percent=self._lookout.balance.hour_percent,
            last_error=delivery.last_error,
        ).status_line(self._sample_rate_hz)
        accelerator = self._judge.accelerator
        if accelerator.refused:
            return f"{line}, on the CPU: {accelerator.reason}"
        return line if accelerator.name == "cpu" else f"{line}, on the {accelerator.name}"


def run_sensor(config: Config, environment: Mapping[str, str], read_again: Callable[[], Config]) -> int:
    """Run the sensor until SIGINT or SIGTERM.

    Args:
        config: the effective configuration.
        environment: for systemd and credentials.
        read_again: gives the configuration anew, at SIGHUP.

    Returns:
        the exit code: 130 or 143 after a signal; 129 when its terminal has gone.

    Raises:
        AgentError: the sensor cannot start, or cannot go on.
    """
    judge = Judge(config, live=True)
    audio = config.audio
    microphone = Microphone(
        device=audio.device, sample_rate_hz=audio.sample_rate_hz, channel=audio.channel, channels=audio.channels
    )
    reloader = Reloader(judge, read_again, environment)
    with StopSignals(on_hangup=reloader.ask) as signals:
        try:
            with Outbox(config, judge, environment=environment, stop=signals.stop) as outbox:
                hours = Hours(coverage_file(config))
                sensor = Sensor(microphone, judge, outbox, signals.stop, hours, ring_s=audio.ring_s, reloader=reloader)
                sensor.run(Heartbeat(environment))
        except DeviceHungError as error:
            log.critical("sensor.hung reason=%s", error)
            os._exit(error.exit_code)  # PortAudio's own clean-up at exit would hang for good
        return signals.exit_code
