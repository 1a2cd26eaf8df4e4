"""The sensor, live: microphone to broker, until it is told to stop.

In: the configuration. Out: an exit code. Four threads: `capture` reads the microphone into the ring, `pipeline` makes
events of it and spools them, `publisher` delivers them, and the main thread, here, looks after signals and systemd.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping

from agent import pipeline
from agent.app import Judge, Outbox, StopSignals, spool_path
from agent.capture import Microphone
from agent.clock import Timeline, time_synced
from agent.config import Config
from agent.errors import AgentError, DeviceError
from agent.health import Health, Heartbeat
from agent.ring import Ring
from agent.values import AudioBlock, EndReason, SoundEvent

log = logging.getLogger(__name__)

LOOK_AFTER_S = 1.0
READ_S = 0.1
FINISH_S = 20.0  # at shutdown, for the pipeline to work off what is in the ring


class Sensor:
    """Microphone, pipeline and outbox of one source.

    Args:
        config: the effective configuration.
        judge: the model and the rules.
        outbox: where events go; open.
        signals: when to stop.
    """

    def __init__(self, config: Config, judge: Judge, outbox: Outbox, signals: StopSignals) -> None:
        audio = config.audio
        self._config = config
        self._judge = judge
        self._outbox = outbox
        self._signals = signals
        self._health = Health()
        self._failure: BaseException | None = None
        self._heard = False
        self._time_synced = False
        self._sample_rate_hz = 0
        self._microphone = Microphone(
            device=audio.device,
            sample_rate_hz=audio.sample_rate_hz,
            channel=audio.channel,
            channels=audio.channels,
        )
        self._pipeline = threading.Thread(target=self._run_pipeline, name="pipeline", daemon=True)

    def run(self, heartbeat: Heartbeat) -> None:
        """Listen until a signal comes or something fails; then end what is open.

        Raises:
            AgentError: what stopped the sensor, other than a signal.
        """
        self._pipeline.start()
        while self._pipeline.is_alive() and not self._signals.stop.wait(LOOK_AFTER_S):
            analysed = self._health.analysed_samples if self._heard else 0
            heartbeat.push(analysed, time.monotonic(), self._status())
        heartbeat.stop()
        self._microphone.stop()
        self._pipeline.join(FINISH_S)
        if self._failure is not None:
            raise self._failure
        if self._microphone.hung:
            raise DeviceError("the sound system hangs, expected systemd to start the agent anew")
        if self._pipeline.is_alive():
            raise AgentError(f"the pipeline did not finish within {FINISH_S:g} s")

    @property
    def hung(self) -> bool:
        """Whether PortAudio hangs, and would hang a clean exit as well."""
        return self._microphone.hung

    def _run_pipeline(self) -> None:
        try:
            sample_rate_hz = self._microphone.open()
            if sample_rate_hz is None:
                return
            self._sample_rate_hz = sample_rate_hz
            ring = Ring(round(self._config.audio.ring_s * sample_rate_hz))
            timeline = Timeline(sample_rate_hz)
            tell = self._outbox.teller(sample_rate_hz, timeline.utc_of)
            stages = self._judge.stages(sample_rate_hz)

            def emit(event: SoundEvent) -> None:
                anchor = self._microphone.anchor()
                if anchor is not None:
                    timeline.anchor(*anchor)
                if not self._time_synced and time_synced():
                    self._time_synced = True
                    timeline.resync()
                tell(event)
                if event.state == "start":
                    self._health.count_event()
                log.info("event.%s label=%s likelihood_peak=%.2f", event.state, event.label, event.likelihood_peak)

            def judged(_prediction: object) -> None:
                self._heard = True

            self._microphone.start(ring)
            pipeline.run(
                self._blocks(ring),
                stages.front_end,
                self._judge.classifier,
                stages.aggregator,
                stages.detector,
                emit,
                end_reason=self._end_reason,
                judged=judged,
            )
        except BaseException as error:  # noqa: BLE001  a thread's edge; raised again by run()
            self._failure = error

    def _blocks(self, ring: Ring) -> Iterator[AudioBlock]:
        """The stream until the ring is closed and empty. A block counts as analysed when the next is asked for."""
        max_samples = max(1, round(READ_S * self._sample_rate_hz))
        while not (ring.closed and ring.waiting == 0):
            block = ring.read(LOOK_AFTER_S, max_samples)
            if block is None:
                continue
            if block.lost_before:
                self._health.count_gap(block.lost_before)
                log.warning("capture.gap lost_s=%.3f", block.lost_before / self._sample_rate_hz)
            yield block
            self._health.count_analysed(len(block.samples))

    def _end_reason(self) -> EndReason:
        return "shutdown" if self._signals.stop.is_set() else "gap"

    def _status(self) -> str:
        if not self._heard:
            return "waiting for the microphone"
        delivery = self._outbox.publisher.delivery()
        return self._health.snapshot(
            connected=delivery.connected,
            delivered=delivery.delivered,
            queued=delivery.queued,
            dropped=delivery.dropped,
            last_error=delivery.last_error,
        ).status_line(self._sample_rate_hz)


def run_sensor(config: Config, environment: Mapping[str, str]) -> int:
    """Run the sensor until SIGINT or SIGTERM.

    Returns:
        the exit code: 130 or 143 after a signal.

    Raises:
        AgentError: the sensor cannot start, or cannot go on.
    """
    judge = Judge(config)
    with StopSignals() as signals:
        failures: list[Exception] = []

        def fail(error: Exception) -> None:
            failures.append(error)
            signals.stop.set()

        with Outbox(config, judge, spool_path(config, environment), environment=environment, on_failure=fail) as outbox:
            sensor = Sensor(config, judge, outbox, signals)
            try:
                sensor.run(Heartbeat(environment))
            except DeviceError as error:
                if not sensor.hung:
                    raise
                log.critical("capture.hung reason=%s", error)
        if sensor.hung:
            os._exit(74)  # PortAudio's own clean-up at exit would hang for good
        if failures:
            raise failures[0]
        return signals.exit_code
