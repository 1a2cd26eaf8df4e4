"""The way from the agent to its broker, which can be cut: a network namespace of the kernel's, and a gate.

The gate is a TCP forwarder. It is shut while the broker is away, and opened again when the witness is back: what a
broker forgets when it dies is not the agent's loss. The cut itself is made by the kernel (the link of a network
namespace goes down), or, where that is not allowed, by the gate, which then forwards nothing and keeps all connections.
"""

import contextlib
import os
import select
import socket
import subprocess
import threading
from typing import Literal

from faults.children import HOST, MissingError, program

State = Literal["open", "shut", "silent"]
LOOK_S = 0.05


class Gate:
    """Forwards TCP connections to the broker.

    Args:
        host: where it listens.
        to_port: where the broker listens, on this machine.
    """

    def __init__(self, host: str, to_port: int) -> None:
        self._to_port = to_port
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._state: State = "open"
        self._done = False
        self._threads = [threading.Thread(target=self._listen, name="gate", daemon=True)]
        self._threads[0].start()

    def set(self, state: State) -> None:
        """Open; shut: all connections are closed, and new ones too; silent: nothing goes through, nothing is closed."""
        self._state = state

    def close(self) -> None:
        """Let go of everything."""
        self._done = True
        self._listener.close()
        for thread in self._threads:
            thread.join(2.0)

    def _listen(self) -> None:
        while not self._done:
            try:
                if not select.select([self._listener], [], [], LOOK_S)[0]:
                    continue
                inside, _ = self._listener.accept()
            except (OSError, ValueError):  # closed
                return
            thread = threading.Thread(target=self._forward, args=(inside,), name="gate-connection", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _forward(self, inside: socket.socket) -> None:
        with inside, contextlib.suppress(OSError):
            if self._is("shut"):
                return
            with socket.create_connection((HOST, self._to_port), timeout=5.0) as outside:
                other = {inside: outside, outside: inside}
                while not self._done and not self._is("shut"):
                    if self._is("silent"):
                        threading.Event().wait(LOOK_S)
                        continue
                    readable = select.select([inside, outside], [], [], LOOK_S)[0]
                    for one in readable:
                        data = one.recv(65_536)
                        if not data:
                            return
                        other[one].sendall(data)

    def _is(self, state: State) -> bool:
        return self._state == state


class Namespace:
    """A network of the agent's own, with one link to this machine that can be taken down.

    Args:
        number: tells the namespaces of one machine apart; 0 to 16000.

    Raises:
        MissingError: that is not allowed here, or `ip` is not installed.
    """

    def __init__(self, number: int) -> None:
        self._name, self._link = f"urbansound-{os.getpid()}-{number}", f"us{os.getpid() % 100_000}x{number % 1000}"
        third, fourth = divmod(number * 4 % 65_536, 256)
        self.host = f"10.213.{third}.{fourth + 1}"
        self._ip = program("ip")
        try:
            self._run("netns", "add", self._name)
            self._run("link", "add", self._link, "type", "veth", "peer", "name", "veth0", "netns", self._name)
            self._run("addr", "add", f"{self.host}/30", "dev", self._link)
            self._run("-n", self._name, "addr", "add", f"10.213.{third}.{fourth + 2}/30", "dev", "veth0")
            self._run("-n", self._name, "link", "set", "lo", "up")
            self._run("-n", self._name, "link", "set", "veth0", "up")
            self.join()
        except subprocess.CalledProcessError as error:
            self.close()
            raise MissingError(f"no network namespace here ({error.stderr.strip()})") from error

    @property
    def prefix(self) -> list[str]:
        """What a command begins with to run inside."""
        return [str(self._ip), "netns", "exec", self._name]

    def cut(self) -> None:
        """Take the link down: no packet comes through, and nobody is told."""
        self._run("link", "set", self._link, "down")

    def join(self) -> None:
        """Bring it up again."""
        self._run("link", "set", self._link, "up")

    def close(self) -> None:
        """Take it away."""
        for command in (("link", "del", self._link), ("netns", "del", self._name)):
            with contextlib.suppress(subprocess.CalledProcessError):
                self._run(*command)

    def _run(self, *arguments: str) -> None:
        subprocess.run([self._ip, *arguments], check=True, capture_output=True, text=True, timeout=10)
