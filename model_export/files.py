"""Files that are written whole or not at all; and what is raised on reading one that was damaged since.

In: a file that is to be. Out: it, or the one before; a full disk, or an end half-way, leaves no half of it.
"""

import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# By numpy and Keras, of a file that is missing, cut, or has another byte somewhere.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    RuntimeError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A place beside a file, of the same suffix, to write to; what stands there in the end is the file."""
    partial = file.with_name(f"{file.stem}.{os.getpid()}{file.suffix}")
    try:
        yield partial
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
