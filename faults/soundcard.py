"""A sound card for the campaign: a PulseAudio of our own, and a loudspeaker in front of its microphone.

In: what to play, and how. Out: a device of ALSA's, `fifomic`, through which the agent hears it by PortAudio, as it
hears real hardware. The loudspeaker writes in real time, on a thread of its own.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.values import FloatArray
from faults.children import CampaignError, Child, program, wait_until

DEVICE = "fifomic"
CHUNK_S = 0.01
ALSA_CONFIGURATION = """\
</usr/share/alsa/alsa.conf>
pcm.fifomic { type pulse device "fifomic" hint { show on description "what is written into a FIFO" } }
ctl.fifomic { type pulse }
"""
_OTHER_SERVERS = {"DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "PULSE_SINK", "PULSE_SOURCE", "PULSE_COOKIE"}

Pcm = NDArray[np.int16]
Change = Callable[[Pcm], Pcm]


class SoundCard:
    """One PulseAudio with one microphone.

    Args:
        folder: everything is kept here: socket, FIFO, ALSA's configuration, log.
        sample_rate_hz: of the microphone.

    Attributes:
        environment: what a child needs to hear this one, and no other.
        fifo: s16le, one channel; what is written there is heard.
    """

    def __init__(self, folder: Path, sample_rate_hz: int) -> None:
        runtime, home = folder / "run", folder / "home"
        pulse = runtime / "pulse"
        for made in (pulse, home):
            made.mkdir(parents=True)
        runtime.chmod(0o700)
        (folder / "asound.conf").write_text(ALSA_CONFIGURATION)
        self.fifo = folder / "fifo"
        self._rate_hz = sample_rate_hz
        self._socket = pulse / "native"
        self._log = folder / "pulseaudio.log"
        self.environment = {name: value for name, value in os.environ.items() if name not in _OTHER_SERVERS} | {
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(runtime),
            "PULSE_RUNTIME_PATH": str(pulse),
            "PULSE_SERVER": f"unix:{self._socket}",
            "ALSA_CONFIG_PATH": str(folder / "asound.conf"),
        }
        self._programs = program("pulseaudio"), program("pactl")
        self._daemon: Child | None = None
        self._module = ""

    def start(self) -> None:
        """Start the server, with its microphone."""
        self._socket.unlink(missing_ok=True)
        command: list[str | Path] = [
            self._programs[0],
            "-n",
            "--daemonize=no",
            "--exit-idle-time=-1",
            "--use-pid-file=no",
        ]
        command += ["--realtime=no", "--high-priority=no", "--log-target=stderr", "--log-level=notice"]
        command += ["-L", f"module-native-protocol-unix auth-anonymous=1 socket={self._socket}"]
        self._daemon = Child(command, self._log, self.environment)
        wait_until(lambda: self._control("info") is not None, "pulseaudio to answer")
        self.plug_in()

    def plug_in(self) -> None:
        """The microphone is there."""
        self.fifo.unlink(missing_ok=True)  # a server that was killed leaves it behind
        module = self._control(
            *("load-module", "module-pipe-source", f"source_name={DEVICE}", f"file={self.fifo}"),
            *("format=s16le", f"rate={self._rate_hz}", "channels=1"),
        )
        if module is None:
            raise CampaignError(f"pulseaudio has no module-pipe-source: {self._log.read_text()[-300:]}")
        self._module = module

    def pull_out(self) -> None:
        """The microphone is gone."""
        self._control("unload-module", self._module)

    def freeze(self) -> None:
        """The server answers nobody, as a sound card does that hangs."""
        assert self._daemon is not None
        self._daemon.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        assert self._daemon is not None
        self._daemon.signal(signal.SIGCONT)

    def kill(self) -> None:
        """The end without notice, also of a frozen one."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon = None

    def _control(self, *arguments: str) -> str | None:
        """What pactl says; None where it fails."""
        done = subprocess.run(
            [self._programs[1], *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        return done.stdout.strip() if done.returncode == 0 else None


class Loudspeaker:
    """Plays a street over and over into a microphone, in real time; what comes out can be changed at any time.

    Args:
        card: whose microphone.
        samples: float32 (n,), in [-1, 1].
        sample_rate_hz: their rate and the microphone's.
    """

    def __init__(self, card: SoundCard, samples: FloatArray, sample_rate_hz: int) -> None:
        self._card = card
        self._samples: Pcm = np.round(samples * 32_767).astype(np.int16)
        self._chunk = round(CHUNK_S * sample_rate_hz)
        self._done = threading.Event()
        self.change: Change = lambda sound: sound
        self.pace = 1.0
        self._thread = threading.Thread(target=self._play, name="loudspeaker", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Play no more, not even silence."""
        self._done.set()
        self._thread.join(5.0)

    def _play(self) -> None:
        at, pipe = 0, -1
        next_s = time.monotonic()
        while not self._done.wait(max(0.0, next_s - time.monotonic())):
            next_s = max(next_s + CHUNK_S / self.pace, time.monotonic() - 1.0)
            chunk = self._samples[at : at + self._chunk]
            at = (at + self._chunk) % (len(self._samples) - self._chunk)
            try:
                if pipe < 0:
                    pipe = os.open(self._card.fifo, os.O_WRONLY | os.O_NONBLOCK)
                os.write(pipe, self.change(chunk).tobytes())
            except BlockingIOError:
                continue  # nobody takes it: it is gone, as with a real microphone
            except OSError:  # no microphone, or no longer: look for it again
                if pipe >= 0:
                    os.close(pipe)
                pipe = -1
        if pipe >= 0:
            with contextlib.suppress(OSError):
                os.close(pipe)
