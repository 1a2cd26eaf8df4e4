"""A real Vulkan driver that needs no GPU, as a pytest plugin: Mesa 25's lavapipe, fetched once into pytest's cache."""

import fcntl
import subprocess

import pytest

from tests.conftest import REPOSITORY

LIMIT_S = 240.0


@pytest.fixture
def software_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process and its children find that GPU alone; where it cannot be had, tests are skipped, and say so."""
    assert request.config.cache is not None
    folder = request.config.cache.mkdir("software-gpu")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            done = subprocess.run(
                [REPOSITORY / "tools" / "software-gpu.sh", folder],
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"no software GPU: not fetched within {LIMIT_S:g} s")
    if done.returncode:
        pytest.skip(f"no software GPU: {' '.join(done.stderr.split()[-40:])}")
    for line in done.stdout.splitlines():
        name, _, value = line.partition("=")
        monkeypatch.setenv(name, value)
