"""One file from the web, with a checksum. `urbansound-model fetch` alone calls this; nothing else opens a connection.

In: an address, a place for the file, the SHA-256 that it must have, if it is known. Out: the file, and beside it a
record of its SHA-256 in the form of `sha256sum`. The project ships no checksums: nobody who wrote it had the files.
Where none is given, the first download is trusted, and each later one must be the same.
"""

import hashlib
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from agent.errors import DownloadError, ModelError, UsageError
from agent.model_card import sha256_of
from model_export.files import whole

MAX_BYTES = 256 * 2**20
CHUNK_BYTES = 2**16
PATIENCE_S = 30.0  # for each answer of the server
SCHEMES = ("https://", "http://")
RECORD = re.compile(r"([0-9a-f]{64})  (.+)\n")


@dataclass(frozen=True, slots=True)
class Download:
    """A file that was fetched, or was there.

    Attributes:
        file: where it lies.
        sha256: what it has.
        was_there: with that checksum; nothing was fetched.
        was_known: whether somebody said before what it must have.
    """

    file: Path
    sha256: str
    was_there: bool
    was_known: bool


def record_of(file: Path) -> Path:
    """Where the checksum of a file is kept."""
    return file.with_name(f"{file.name}.sha256")


def download(address: str, file: Path, sha256: str | None = None) -> Download:
    """Fetch a file, unless it is there as it must be.

    Args:
        address: http or https.
        file: where it goes; written beside it first, and renamed when it is whole and right.
        sha256: what it must have; else what its record says, if there is one.

    Raises:
        DownloadError: it cannot be fetched whole, or has more than `MAX_BYTES`.
        ModelError: it has another SHA-256 than it must have; what came is thrown away.
        UsageError: the address is none of the web, a checksum is not one or contradicts the record, or the folder
            cannot be written.
    """
    if not address.startswith(SCHEMES):
        raise UsageError(f"{address}: expected an address that begins with {' or '.join(SCHEMES)}")
    expected = _expected(file, sha256)
    try:
        if expected and file.exists():
            _check(str(file), sha256_of(file), expected)
            return Download(file, expected, was_there=True, was_known=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as partial:
            with partial.open("wb") as out:
                actual = _fetch(address, out)
            _check(address, actual, expected or actual)
        record_of(file).write_text(f"{actual}  {file.name}\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}; expected a place to write to") from error
    return Download(file, actual, was_there=False, was_known=expected is not None)


def _expected(file: Path, said: str | None) -> str | None:
    if said is not None and not re.fullmatch("[0-9a-f]{64}", said):
        raise UsageError(f"--sha256 {said}: expected 64 hexadecimal digits in small letters")
    record = record_of(file)
    try:
        text = record.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return said
    except OSError as error:
        raise UsageError(f"{record}: {error.strerror}; expected the record of a checksum") from error
    recorded = RECORD.fullmatch(text)
    if recorded is None:
        raise UsageError(f"{record}: holds {text[:80]!r}, expected a checksum as sha256sum writes it")
    if said is not None and said != recorded[1]:
        raise UsageError(f"--sha256 {said}: {record} says {recorded[1]}, expected the same")
    return recorded[1]


def _check(what: str, actual: str, expected: str) -> None:
    if actual != expected:
        raise ModelError(f"{what}: sha256 is {actual}, expected {expected}")


def _fetch(address: str, out: BinaryIO) -> str:
    """Copy what the address gives; give its SHA-256."""
    digest, n_bytes = hashlib.sha256(), 0
    for chunk in _chunks(address):
        n_bytes += len(chunk)
        if n_bytes > MAX_BYTES:
            raise DownloadError(f"{address}: has more than {MAX_BYTES} bytes, expected some 20 million")
        digest.update(chunk)
        out.write(chunk)
    return digest.hexdigest()


def _chunks(address: str) -> Iterator[bytes]:
    safe = SCHEMES[:1] if address.startswith(SCHEMES[0]) else SCHEMES
    try:
        with urllib.request.urlopen(address, timeout=PATIENCE_S) as response:
            if not response.url.startswith(safe):
                raise DownloadError(f"{address}: leads to {response.url}, expected {' or '.join(safe)}")
            promised, n_bytes = response.length, 0
            while chunk := response.read(CHUNK_BYTES):
                n_bytes += len(chunk)
                yield chunk
            if promised is not None and n_bytes != promised:
                raise DownloadError(f"{address}: ended after {n_bytes} bytes, expected {promised}")
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{address}: {error.code} {error.reason}, expected a file") from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: no address at all, or not ASCII
        reason = getattr(error, "reason", None) or error
        raise DownloadError(f"{address}: cannot be fetched ({reason})") from error
