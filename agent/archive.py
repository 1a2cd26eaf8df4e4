"""Recordings that are not files of this machine: the owner of fsspec.

In: addresses such as `s3://bucket/2026` or `zip://*::file:///day.zip`. Out: the recordings there, each open as a stream
that can be read anywhere. Called by `cli` and `wavfile`. Needs the extra `[cluster]`, and for each kind of address what
fsspec asks for.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from agent.errors import RecordingError, UsageError

MARK = "://"
_LOGIN = re.compile(r"(?<!zip)(?<!tar)(?<!archive)(://)([^/@:]*:(?!@))?[^/]*@")  # in an archive it is part of a name
_QUERY = re.compile(r"(https?://[^\s?]*\?|\?(?=[^\s/:?]*=))\S+")  # elsewhere a mere ? is a sign of a pattern


@dataclass(frozen=True, slots=True, order=True)
class RemoteFile:
    """A recording by its address.

    Attributes:
        address: as fsspec understands it.
    """

    address: str

    def __str__(self) -> str:
        """The address as it may be shown."""
        return _masked(self.address)

    @property
    def name(self) -> str:
        """Its own name, as a path has one: of `zip://night/a.wav::file:///day.zip` it is `a.wav`."""
        link = next(link for link in self.address.split("::") if MARK in link)
        return PurePosixPath(link.partition("?")[0]).name

    @property
    def local_files(self) -> list[Path]:
        """What it is of on this machine: of `zip://night/a.wav::file:///day.zip` it is `/day.zip`."""
        links = (link.rpartition(MARK) for link in self.address.split("::"))
        return [Path(path) for system, _, path in links if system in {"", "file", "local"}]

    def open(self) -> "RemoteStream":
        """Open it for reading.

        Raises:
            RecordingError: it cannot be opened.
            UsageError: fsspec is not installed.
        """
        try:
            system, path = _fsspec().core.url_to_fs(self.address)
            return RemoteStream(system.open(path, "rb"), system)
        except UsageError:
            raise
        except Exception as error:  # each file system has errors of its own
            raise RecordingError(f"{self}: cannot be opened ({_reason(error)})") from error


class RemoteStream:
    """A stream for libsndfile, whose callbacks may not raise: an error ends the stream, and is kept.

    Args:
        stream: a binary file.
        system: the file system that it is of, which lives as long: an archive closes with it.

    Attributes:
        error: why reading failed; None while it did not.
    """

    def __init__(self, stream: Any, system: Any) -> None:  # noqa: ANN401  of any kind
        self._stream, self._system = stream, system
        self.error: OSError | None = None

    def read(self, n: int = -1) -> bytes:
        """At most `n` bytes; none at the end, or after an error."""
        content: bytes = self._tried(lambda: self._stream.read(n), b"")
        return content

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  whatever bytes can be put into
        """Fill a buffer as far as it goes; how many bytes came."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte, and give which it is; 0 after an error."""
        place: int = self._tried(lambda: self._stream.seek(offset, whence), 0)
        return place

    def tell(self) -> int:
        """Which byte is next; 0 after an error."""
        place: int = self._tried(self._stream.tell, 0)
        return place

    def _tried(self, work: Callable[[], Any], otherwise: Any) -> Any:  # noqa: ANN401  bytes or a number
        if self.error is None:
            try:
                return work()
            except Exception as error:  # noqa: BLE001  each file system has errors of its own
                self.error = OSError(_reason(error))
        return otherwise

    def close(self) -> None:
        """Give it back."""
        self._stream.close()


def walk_remote(files: Iterable[RemoteFile], suffixes: frozenset[str]) -> tuple[list[RemoteFile], list[RecordingError]]:
    """Find the recordings: an address of a file is taken as it is, of a folder or a pattern with all that is there.

    Args:
        files: addresses.
        suffixes: of recordings in folders, in small letters.

    Returns:
        The files, sorted, each once; and what could not be found or listed. Neither stops the other. Of those that are
        shown alike, for what differs is masked, the first is taken: nobody could tell their events apart.

    Raises:
        UsageError: fsspec is not installed.
    """
    found: set[RemoteFile] = set()
    problems: list[RecordingError] = []
    for file in files:
        try:
            here = set(_below(file.address, suffixes))
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001  each file system has errors of its own
            problems.append(RecordingError(f"{file}: cannot be listed ({_reason(error)})"))
            continue
        if not here:
            problems.append(RecordingError(f"{file}: no recordings there"))
        found |= here
    shown: dict[str, RemoteFile] = {}
    for file in sorted(found):
        if shown.setdefault(str(file), file) != file:
            problem = "another address is shown like this one, expected a command for each"
            problems.append(RecordingError(f"{file}: {problem}"))
    return list(shown.values()), problems


def _below(address: str, suffixes: frozenset[str]) -> Iterator[RemoteFile]:
    system, path = _fsspec().core.url_to_fs(address)
    beyond = address[address.index("::") :] if "::" in address else ""
    if system.isfile(path):
        yield RemoteFile(address)
        return
    inside = system.glob(path) if any(sign in path for sign in "*?[") else system.find(path)
    for name in inside:
        pure = PurePosixPath(name)
        if pure.suffix.lower() in suffixes and not pure.name.startswith("."):
            yield RemoteFile(system.unstrip_protocol(name) + beyond)


def _fsspec() -> Any:  # noqa: ANN401  a module that need not be there
    try:
        import fsspec
    except ImportError as error:
        raise UsageError("addresses need fsspec: in its source, pip install '.[cluster]'") from error
    return fsspec


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return _masked(text[0]) if text else type(error).__name__


def _masked(text: str) -> str:
    """A text without what may be a secret in its addresses: a password, a token in its place, what follows a `?`."""
    return _QUERY.sub(r"\1***", _LOGIN.sub(r"\1\2***@", text))
