"""A private PulseAudio as the sound card, as a pytest plugin: what is played into its sink is what `testmic` hears.

`sound_server` is shared by the whole session. `breakable_sound_server` belongs to one test, which may stop, freeze
or kill it. PortAudio reads ALSA_CONFIG_PATH when it is initialised, so who captures should be a child process with
`environment`. Needs the Debian packages in `NEEDED_PACKAGES`; without them the tests that ask for a server are
skipped and say so.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from ctypes.util import find_library
from pathlib import Path

import pytest

NEEDED_PACKAGES = "pulseaudio pulseaudio-utils libasound2-plugins libportaudio2"
SAMPLE_RATE_HZ = 48_000
START_DEADLINE_S = 20.0

# The hint blocks make PortAudio list the names.
ALSA_CONFIGURATION = """\
</usr/share/alsa/alsa.conf>
pcm.testmic { type pulse device "cap48.monitor" hint { show on description "what is played into cap48" } }
ctl.testmic { type pulse }
pcm.fifomic { type pulse device "fifomic" hint { show on description "what is written into a FIFO" } }
"""


class SoundServer:
    """PulseAudio with a null sink of one channel, 16 bit, 48 kHz.

    Args:
        folder: everything is kept here: socket, ALSA configuration, log.

    Attributes:
        environment: the variables that a child process needs in order to hear this server, and only this one.
        device: the ALSA name of the microphone that hears what is played.
    """

    device = "testmic"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "pulseaudio.log"
        runtime = folder / "run"
        pulse = runtime / "pulse"
        (folder / "home").mkdir(parents=True, exist_ok=True)
        pulse.mkdir(parents=True, exist_ok=True)
        runtime.chmod(0o700)
        self._socket = pulse / "native"
        alsa = folder / "asound.conf"
        alsa.write_text(ALSA_CONFIGURATION, encoding="utf-8")
        self.environment = {name: value for name, value in os.environ.items() if name not in _OTHER_SERVERS} | {
            "HOME": str(folder / "home"),
            "XDG_RUNTIME_DIR": str(runtime),
            "PULSE_RUNTIME_PATH": str(pulse),
            "PULSE_SERVER": f"unix:{self._socket}",
            "ALSA_CONFIG_PATH": str(alsa),
        }
        self._daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no"]
        command += ["--realtime=no", "--high-priority=no", "--log-target=stderr", "--log-level=notice"]
        command += ["-L", f"module-native-protocol-unix auth-anonymous=1 socket={self._socket}"]
        command += ["-L", f"module-null-sink sink_name=cap48 rate={SAMPLE_RATE_HZ} channels=1 format=s16le"]
        self._socket.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._daemon = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        deadline = time.monotonic() + START_DEADLINE_S
        while self._control("info").returncode != 0:
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"pulseaudio did not start:\n{self._log.read_text(encoding='utf-8')}")
            time.sleep(0.02)  # between two questions

    def stop(self) -> None:
        """End the daemon, also a frozen one; everybody who listens loses the microphone."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
            self._daemon = None

    def freeze(self) -> None:
        """Let the daemon answer nobody, as a sound card does that hangs."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen daemon go on."""
        self._send(signal.SIGCONT)

    def play(self, path: Path) -> subprocess.Popen[bytes]:
        """Play a recording into `testmic`; the process ends when the last sample has been played.

        A file of one channel, 16 bit, 48 kHz arrives sample by sample as it is.
        """
        command = ["paplay", "--latency-msec=50", "--device=cap48", str(path)]
        return subprocess.Popen(command, env=self.environment)

    def load_fifo(self) -> Path:
        """Let what is written into the returned FIFO (s16le, one channel, 48 kHz) be heard by the device `fifomic`."""
        fifo = self._folder / "fifo"
        fifo.unlink(missing_ok=True)  # of a server that was killed
        arguments = ["source_name=fifomic", f"file={fifo}", "format=s16le", f"rate={SAMPLE_RATE_HZ}", "channels=1"]
        loaded = self._control("load-module", "module-pipe-source", *arguments)
        if loaded.returncode != 0:
            raise RuntimeError(f"module-pipe-source: {loaded.stderr.decode()}")
        return fifo

    def unload_fifo(self) -> None:
        """Take the device `fifomic` away."""
        unloaded = self._control("unload-module", "module-pipe-source")
        if unloaded.returncode != 0:
            raise RuntimeError(f"module-pipe-source: {unloaded.stderr.decode()}")

    def _control(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = ["pactl", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, timeout=START_DEADLINE_S, check=False)

    def _send(self, number: signal.Signals) -> None:
        if self._daemon is None:
            raise RuntimeError("pulseaudio is not running")
        self._daemon.send_signal(number)


_OTHER_SERVERS = {"DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "PULSE_SINK", "PULSE_SOURCE", "PULSE_COOKIE"}


@pytest.fixture(scope="session")
def sound_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoundServer]:
    """The session's sound card."""
    yield from _running_server(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def breakable_sound_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoundServer]:
    """A sound card of the test's own, to pull out and to freeze."""
    yield from _running_server(tmp_path_factory.mktemp("sound"))


def _running_server(folder: Path) -> Iterator[SoundServer]:
    missing = [command for command in ("pulseaudio", "pactl", "paplay") if shutil.which(command) is None]
    if find_library("portaudio") is None:
        missing.append("libportaudio")
    if not any(Path("/usr/lib").glob("*/alsa-lib/libasound_module_pcm_pulse.so")):
        missing.append("ALSA plugin for PulseAudio")
    if missing:
        pytest.skip(f"no {', '.join(missing)} here; apt-get install {NEEDED_PACKAGES}")
    server = SoundServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
