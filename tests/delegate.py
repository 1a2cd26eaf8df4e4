"""A real TFLite delegate, compiled for the tests, as a pytest plugin; what it does, `DELEGATE_FOR_TESTS` says."""

import shutil
import subprocess

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture(scope="session")
def delegate(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of the library; without a C compiler, tests that need it are skipped and say so."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a TFLite delegate with")
    library = tmp_path_factory.mktemp("delegate") / "libdelegate.so"
    source = REPOSITORY / "tests" / "delegate.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
    return str(library)
