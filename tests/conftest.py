"""What several test files need: signals, the repository's places, and the real servers."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# As `urbansound` itself does: with more threads BLAS rounds differently, and what runs here and there is compared.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

REPOSITORY = Path(__file__).parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

# A shell that starts the tests in the background has them ignore SIGINT, and the commands that they start inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What hears sound in real time, or trains a network.
SLOW_FIXTURES = {"software_gpu", "sound_server", "trained"}

# The same examples each time, as many as a test can wait for. For more: HYPOTHESIS_EXAMPLES=10000.
settings.register_profile(
    "ours",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "40")),
)
settings.load_profile("ours")

pytest_plugins = [
    "tests.broker",
    "tests.commands",
    "tests.delegate",
    "tests.shipped",
    "tests.software_gpu",
    "tests.sound_server",
    "tests.street",
    "tests.wall_clock",
]


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Mark what takes long by what it needs."""
    for item in items:
        if SLOW_FIXTURES & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Real recordings; where they are not at hand, the tests that need them are skipped and say so."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no recordings in {SHARED_DATA}")
    return SHARED_DATA
