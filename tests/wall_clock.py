"""The wall clock of a child process, which a test sets while it runs, as a pytest plugin. Needs a C compiler."""

import shutil
import subprocess
from pathlib import Path

import pytest

SYNCHRONIZED, TIME_ERROR = 0, 5  # adjtimex(2)


class SetClock:
    """What time a process takes it for.

    Attributes:
        environment: the variables that the process needs.
    """

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK": str(file)}
        self.set(0.0, synced=False)

    def set(self, ahead_s: float, *, synced: bool) -> None:
        """From now on it is so much ahead; and whether the kernel holds it for set by a time server."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead_s} {SYNCHRONIZED if synced else TIME_ERROR}\n", encoding="ascii")
        new.replace(self._file)  # at once: the process reads it all the time


@pytest.fixture
def set_clock(tmp_path: Path) -> SetClock:
    """The wall clock of a child process."""
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler here (apt-get install gcc libc6-dev)")
    library = tmp_path / "wall_clock.so"
    source = Path(__file__).with_name("wall_clock.c")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source, "-lm"], check=True, timeout=60)
    return SetClock(library, tmp_path / "wall_clock")
