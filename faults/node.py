"""The agent, as `urbansound run` runs it, with a microphone that plays a recording faster than real time.

    python -m faults.node --config FILE [--sound FILE --speed X --from SECONDS --forever] [--journal FILE]

Only three parts differ from `urbansound run`. The microphone: it waits for the analysis, so that nothing is lost by
haste, and after the recording there is faint noise for ever. The classifier: it says how far it has come, and on
SIGUSR1 it hangs. The outbox: each message whose append has returned is noted in the journal. All else is the agent
itself.
"""

import argparse
import functools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from agent import sensor
from agent.app import Judge
from agent.capture import Microphone
from agent.cli import main as urbansound
from agent.inference import Classifier
from agent.outbox import Outbox
from agent.values import FloatArray, Prediction, Window
from agent.wavfile import open_recording

# How far the sound may be ahead of the analysis: more than a window, less than what makes the agent judge less often.
AHEAD_S = 1.3
PATIENCE_S = 10.0  # then it goes on all the same: real sound does not wait for an agent that hangs
FAINT = 1e-3  # of full scale


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node; returns the exit code of `urbansound run`."""
    parser = argparse.ArgumentParser(prog="python -m faults.node")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--sound", type=Path, help="default: the configured microphone")
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--from", dest="from_s", type=float, default=0.0)
    parser.add_argument("--journal", type=Path)
    parser.add_argument("--progress", type=Path, help="written anew with each second of sound that was judged")
    parser.add_argument("--forever", action="store_true", help="the recording over and over")
    options = parser.parse_args(arguments)
    progress = Progress(options.progress)
    microphone: Callable[..., Microphone] = Microphone
    if options.sound is not None:
        with open_recording(options.sound) as recording:
            samples = np.concatenate([block.samples for block in recording.blocks()])
        progress.sample_rate_hz = recording.sample_rate_hz
        tape = Tape(samples, recording.sample_rate_hz, options.speed, options.from_s, progress, forever=options.forever)
        microphone = functools.partial(Microphone, open_stream=lambda _settings, _refresh: tape)
    journal = None if options.journal is None else os.open(options.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with mock.patch.multiple(
        sensor,
        Microphone=microphone,
        Judge=functools.partial(_watched_judge, progress),
        Outbox=functools.partial(_noted_outbox, journal),
    ):
        return urbansound(["run", "--config", str(options.config)])


class Progress:
    """How far the analysis has come; on SIGUSR1 it hangs for good.

    Args:
        file: to be told there, in seconds of sound; None for nowhere.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = None if file is None else os.open(file, os.O_WRONLY | os.O_CREAT)
        self._said_s = 0
        self.heard_until = 0
        self.sample_rate_hz = 0
        self.hangs = False
        signal.signal(signal.SIGUSR1, self._hang)

    def note(self, windows: Sequence[Window]) -> None:
        """These windows are about to be judged."""
        while self.hangs:
            time.sleep(0.1)
        if windows:
            self.heard_until = windows[-1].first_sample + windows[-1].n_samples
            self._say()

    def _say(self) -> None:
        heard_s = self.heard_until // self.sample_rate_hz if self.sample_rate_hz else 0
        if self._file is not None and heard_s > self._said_s:
            self._said_s = heard_s
            os.pwrite(self._file, b"%12d" % heard_s, 0)

    def _hang(self, *_: object) -> None:
        self.hangs = True


class Tape:
    """A microphone that hears a recording: a `Stream` of `portaudio`.

    Args:
        samples: float32 (n,), mono.
        sample_rate_hz: their rate.
        speed: times real time.
        from_s: where it begins.
        progress: it waits for that.
        forever: whether it begins again at its end; else there is faint noise.
    """

    description = "tape"

    def __init__(
        self,
        samples: FloatArray,
        sample_rate_hz: int,
        speed: float,
        from_s: float,
        progress: Progress,
        *,
        forever: bool,
    ) -> None:
        self.sample_rate_hz = sample_rate_hz
        self._samples, self._speed, self._progress, self._forever = samples, speed, progress, forever
        self._at = round(from_s * sample_rate_hz)
        self._given = 0
        self._rng = np.random.default_rng(7)
        self._began_s = time.monotonic()
        self._closed = threading.Event()

    def start(self) -> None:
        """Let the tape run."""
        self._closed.clear()
        self._began_s = time.monotonic()

    def read(self, n_samples: int) -> tuple[FloatArray, bool]:
        """The next samples, float32 (n, 1), when they are due and the analysis is not far behind."""
        due_s = self._began_s + (self._given + n_samples) / self.sample_rate_hz / self._speed
        self._closed.wait(max(0.0, due_s - time.monotonic()))
        patient_until = time.monotonic() + PATIENCE_S
        ahead = round(AHEAD_S * self.sample_rate_hz)
        while self._given - self._progress.heard_until > ahead and time.monotonic() < patient_until:
            if self._closed.wait(0.002):
                break
        samples = self._played(n_samples)
        self._given += n_samples
        self._at += n_samples
        return samples[:, None], False

    def close(self) -> None:
        """Stop it."""
        self._closed.set()

    def _played(self, n: int) -> FloatArray:
        at = self._at % len(self._samples) if self._forever else min(self._at, len(self._samples))
        played = self._samples[at : at + n]
        while self._forever and len(played) < n:
            played = np.concatenate((played, self._samples[: n - len(played)]))
        noise = self._rng.normal(0.0, FAINT, n - len(played)).astype(np.float32)
        return np.concatenate((played, noise))


class WatchedClassifier:
    """A classifier that says how far it has come."""

    def __init__(self, classifier: Classifier, progress: Progress) -> None:
        self._classifier, self._progress = classifier, progress

    def predict_all(self, windows: Sequence[Window]) -> list[Prediction]:
        """As the classifier does."""
        self._progress.note(windows)
        return self._classifier.predict_all(windows)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  whatever else a classifier can
        return getattr(self._classifier, name)


def _watched_judge(progress: Progress, *arguments: Any, **more: Any) -> Judge:  # noqa: ANN401  what Judge takes
    judge = Judge(*arguments, **more)
    judge.classifier = WatchedClassifier(judge.classifier, progress)  # type: ignore[assignment]  # by its verbs
    return judge


def _noted_outbox(journal: int | None, *arguments: Any, **more: Any) -> Outbox:  # noqa: ANN401  what Outbox takes
    outbox = Outbox(*arguments, **more)
    append = outbox.spool.append
    if journal is not None:

        def noted(topic: str, payload: Callable[[int], bytes], **how: Any) -> Any:  # noqa: ANN401  what append takes
            seq = append(topic, payload, **how)
            told = json.loads(payload(seq))
            line = {"seq": seq, "event_id": told.get("event_id"), "event_type": told.get("event_type")}
            line["kind"] = how.get("kind", "event")
            os.write(journal, (json.dumps(line) + "\n").encode())  # the kernel has it: a kill does not take it back
            return seq

        outbox.spool.append = noted  # type: ignore[method-assign]  # the one place where all messages pass
    return outbox


if __name__ == "__main__":
    sys.exit(main())
