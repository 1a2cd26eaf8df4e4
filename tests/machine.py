"""A machine of its own with a real systemd: a Debian in a folder, booted by systemd-nspawn on the host's network.

The Debian is made once by debootstrap, from the mirror that the host's own apt uses, and kept in
`$XDG_CACHE_HOME/urbansound-tests` (default `~/.cache`); a machine is a copy of it. Needs root, and the first time a
network; where it cannot be, `Unavailable` says why.
"""

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.conftest import REPOSITORY

PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-venv,libportaudio2,libasound2-plugins,pulseaudio,pulseaudio-utils"
MAKE_LIMIT_S = 900.0
LIMIT_S = 120.0
LOOK_S = 0.1
PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class UnavailableError(Exception):
    """There can be no such machine here; `str` says why."""


def cache() -> Path:
    """Where trees are kept: outside of the repository."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "urbansound-tests"


def debian() -> tuple[str, str]:
    """The release of the host and the mirror that its apt uses."""
    release = dict(re.findall(r'(?m)^(\w+)="?([^"\n]*)"?$', Path("/etc/os-release").read_text(encoding="utf-8")))
    if release.get("ID") != "debian" or "VERSION_CODENAME" not in release:
        raise UnavailableError(f"the host is {release.get('ID')}, expected debian")
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for file in filter(Path.is_file, files):
        text = file.read_text(encoding="utf-8")
        for mirror in re.findall(r"(?m)^(?:URIs:|deb(?:\s+\[[^\]]*\])?)\s+(\S+)", text):
            if "security" not in mirror:
                return release["VERSION_CODENAME"], mirror
    raise UnavailableError("no mirror in the apt sources of the host")


@contextmanager
def only_one() -> Iterator[None]:
    """One machine at a time: systemd-nspawn would put two into the same cgroup."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def base_tree() -> Path:
    """The Debian to copy; made where it is missing."""
    if os.geteuid() != 0:
        raise UnavailableError("not root, which systemd-nspawn needs")
    installed = subprocess.run(
        [REPOSITORY / "tools" / "system-packages.sh", "debootstrap", "systemd-container"],
        capture_output=True,
        text=True,
        timeout=MAKE_LIMIT_S,
        check=False,
    )
    if shutil.which("debootstrap") is None or shutil.which("systemd-nspawn") is None:
        raise UnavailableError(f"debootstrap and systemd-container cannot be installed: {installed.stderr[-300:]}")
    release, mirror = debian()
    tree = cache() / f"{release}-{hashlib.sha256(PACKAGES.encode()).hexdigest()[:12]}"
    if not tree.is_dir():
        half = tree.with_suffix(".half")
        shutil.rmtree(half, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", release, str(half), mirror]
        made = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=MAKE_LIMIT_S, check=False
        )
        if made.returncode != 0:
            raise UnavailableError(f"debootstrap failed, perhaps without a network: {made.stdout[-300:]}")
        half.rename(tree)
    if not (tree / f"usr/bin/python{sys.version_info.major}.{sys.version_info.minor}").exists():
        raise UnavailableError(f"{release} has another Python than {sys.version.split()[0]}, whose wheels we have")
    return tree


class Machine:
    """One copy of the tree, running.

    Args:
        folder: for the copy.

    Attributes:
        root: its files, as the host sees them.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "machine"
        self._log = folder / "nspawn.log"
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._cgroups: list[Path] = []
        subprocess.run(["cp", "-a", "--reflink=auto", base_tree(), self.root], check=True, timeout=MAKE_LIMIT_S)

    def boot(self) -> None:
        """Start it, and wait until its systemd has started everything."""
        command = ["systemd-nspawn", "-D", str(self.root), "--boot", "--register=no", "--keep-unit"]
        command += ["--quiet", "--console=pipe", "--resolv-conf=off", "--timezone=off"]
        with self._log.open("wb") as log:
            self._nspawn = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.wait(lambda: self._leader() is not None, "systemd-nspawn to start a machine")
            self.wait(
                lambda: self.run("systemctl is-system-running", check=False).strip() in ("running", "degraded"),
                "systemd to boot",
            )
        except TimeoutError as error:
            self.end()
            raise UnavailableError(f"systemd-nspawn boots nothing here: {self._log.read_text()[-300:]}") from error
        self._cgroups = self._cgroups_of(self._nspawn.pid)

    def run(self, command: str, *, check: bool = True, limit_s: float = LIMIT_S) -> str:
        """Run a shell command as its root; give what it said.

        Raises:
            AssertionError: it failed.
        """
        arguments = ["nsenter", "-t", str(self._leader()), "-a", "env", "-i", f"PATH={PATHS}", "sh", "-c", command]
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit_s,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def shows(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit."""
        said = self.run(f"systemctl show {shlex.quote(unit)} --property={','.join(properties)}")
        return dict(line.split("=", 1) for line in said.splitlines())

    def journal(self, unit: str) -> str:
        """What a unit has said, and what systemd has said about it."""
        return self.run(f"journalctl --no-pager --output=cat --unit={shlex.quote(unit)}")

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Write one of its files."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)

    def wait(self, true: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
        """Wait for the thing itself.

        Raises:
            TimeoutError: it does not come, or the machine is gone.
        """
        until = time.monotonic() + limit_s
        while not true():
            gone = self._nspawn is None or self._nspawn.poll() is not None
            if gone or time.monotonic() > until:
                raise TimeoutError(f"waited for {what}; the machine is {'gone' if gone else 'there'}")
            time.sleep(LOOK_S)  # between two looks

    def end(self) -> None:
        """Switch it off, and leave nothing of it."""
        if self._nspawn is not None:
            with suppress(subprocess.SubprocessError, AssertionError):
                self.run("systemctl poweroff", limit_s=20.0)
                self._nspawn.wait(30.0)
            if self._nspawn.poll() is None:
                leader = self._leader()
                if leader is not None:
                    os.kill(leader, signal.SIGKILL)
                self._nspawn.kill()
                self._nspawn.wait(30.0)
            self._nspawn = None
        for group in self._cgroups:
            for folder in sorted(group.rglob("*/"), reverse=True):
                with suppress(OSError):  # it is still in use, or gone
                    folder.rmdir()
            with suppress(OSError):
                group.rmdir()
        shutil.rmtree(self.root, ignore_errors=True)

    def _leader(self) -> int | None:
        """Its PID 1, as the host counts."""
        assert self._nspawn is not None
        pid = self._nspawn.pid
        with suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
            return int(children[0]) if children else None
        return None

    @staticmethod
    def _cgroups_of(pid: int) -> list[Path]:
        """What systemd-nspawn makes beside itself, and leaves."""
        groups = []
        for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii").splitlines():
            _, controllers, path = line.split(":", 2)
            if path.endswith("/supervisor"):
                name = controllers.removeprefix("name=")
                mounts = [Path("/sys/fs/cgroup") / (name or "unified"), Path("/sys/fs/cgroup")]
                for mount in mounts:
                    supervisor = mount / path.lstrip("/")
                    if supervisor.is_dir():
                        groups += [supervisor, supervisor.with_name("payload")]
                        break
        return groups
