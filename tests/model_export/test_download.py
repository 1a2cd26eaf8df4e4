"""One file from the web, held against a real server on this machine."""

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agent.errors import DownloadError, ModelError, UsageError
from model_export import download as module
from model_export.cli import main
from model_export.download import download, record_of
from model_export.openl3 import PUBLISHED

NAME = "openl3-mel256-music"
CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Gives `content` at any address; `asked` are the addresses that were asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path.startswith("/elsewhere"):
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1/weights.h5")
            self.end_headers()
            return
        self.send_response(404 if self.path.startswith("/missing") else 200)
        n_bytes = len(self.server.content) + (10 if self.path.startswith("/cut") else 0)
        self.send_header("Content-Length", str(n_bytes))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_fetch_writes_the_published_file_and_its_checksum(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first time it says that nobody knew the checksum, and records it as `sha256sum -c` reads it."""
    code = main(["fetch", NAME, "--out", str(tmp_path / "new"), "--from", f"{server.address}/models/"])

    said = capsys.readouterr()
    name = PUBLISHED[NAME]
    assert code == 0
    assert server.asked == [f"/models/{name}"]
    assert said.out == f"{tmp_path}/new/{name}: fetched, sha256 {SHA256}\n"
    assert "nobody said what its sha256 must be" in said.err
    assert (tmp_path / "new" / name).read_bytes() == CONTENT
    assert (tmp_path / "new" / f"{name}.sha256").read_text() == f"{SHA256}  {name}\n"
    assert files_in(tmp_path / "new") == {name, f"{name}.sha256"}


def test_what_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    """A file with the recorded checksum is enough; the server is not asked."""
    file = tmp_path / "weights.h5"
    first = download(f"{server.address}/weights.h5", file)

    second = download(f"{server.address}/weights.h5", file)

    assert (first.was_there, first.was_known) == (False, False)
    assert (second.was_there, second.was_known, second.sha256) == (True, True, SHA256)
    assert len(server.asked) == 1


def test_another_file_than_the_first_is_refused(server: Server, tmp_path: Path) -> None:
    """Once a checksum is recorded, a server that gives something else is not believed; nothing is left of it."""
    file = tmp_path / "weights.h5"
    download(f"{server.address}/weights.h5", file)
    file.unlink()
    server.content = b"another"

    with pytest.raises(ModelError, match=rf"sha256 is {hashlib.sha256(b'another').hexdigest()}, expected {SHA256}"):
        download(f"{server.address}/weights.h5", file)

    assert files_in(tmp_path) == {record_of(file).name}


def test_a_file_that_was_changed_is_named(server: Server, tmp_path: Path) -> None:
    """A damaged file is not taken for the one that was fetched, and not overwritten unasked."""
    file = tmp_path / "weights.h5"
    download(f"{server.address}/weights.h5", file)
    file.write_bytes(CONTENT[:-1])

    with pytest.raises(ModelError, match=rf"weights\.h5: sha256 is .*, expected {SHA256}"):
        download(f"{server.address}/weights.h5", file)


def test_a_given_checksum_is_held_against_the_file(server: Server, tmp_path: Path) -> None:
    """Who knows the checksum says it, and trusts nobody."""
    with pytest.raises(ModelError, match=f"expected {'0' * 64}"):
        download(f"{server.address}/weights.h5", tmp_path / "weights.h5", "0" * 64)
    assert files_in(tmp_path) == set()

    done = download(f"{server.address}/weights.h5", tmp_path / "weights.h5", SHA256)

    assert done.was_known


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("missing", "404 Not Found, expected a file"),
        ("cut", "ended after 256000 bytes, expected 256010"),
        ("elsewhere", "leads to ftp|cannot be fetched|not allowed"),
    ],
)
def test_a_download_that_fails_leaves_nothing(server: Server, tmp_path: Path, path: str, expected: str) -> None:
    """Neither the file nor half of it nor a record; the message has the address and what came."""
    with pytest.raises(DownloadError, match=rf"^{server.address}/{path}: .*({expected})"):
        download(f"{server.address}/{path}", tmp_path / "weights.h5")

    assert files_in(tmp_path) == set()


def test_more_than_any_weights_have_is_not_taken(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that never stops does not fill the disk."""
    monkeypatch.setattr(module, "MAX_BYTES", 100_000)

    with pytest.raises(DownloadError, match="has more than 100000 bytes"):
        download(f"{server.address}/weights.h5", tmp_path / "weights.h5")

    assert files_in(tmp_path) == set()


def test_a_server_that_is_not_there_ends_with_69(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As for a broker that cannot be reached: try again later."""
    code = main(["fetch", NAME, "--out", str(tmp_path), "--from", "http://127.0.0.1:9"])

    assert code == 69
    assert f"http://127.0.0.1:9/{PUBLISHED[NAME]}: cannot be fetched" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/für/w.h5", "http://[::1/w.h5", f"http://{'a' * 70}.de/w.h5"])
def test_an_address_that_cannot_be_asked_for_is_named(tmp_path: Path, address: str) -> None:
    """Letters that are not ASCII, half an address, a name that is too long: no server is there either."""
    with pytest.raises(DownloadError, match=f"^{re.escape(address)}: cannot be fetched"):
        download(address, tmp_path / "weights.h5")

    assert files_in(tmp_path) == set()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("file:///etc/hostname",), "expected an address that begins with https:// or http://"),
        (("http://127.0.0.1:9/x", "abc"), "--sha256 abc: expected 64 hexadecimal digits"),
        (("http://127.0.0.1:9/x", "1" * 64), r"--sha256 1+: .*\.sha256 says 0+, expected the same"),
    ],
)
def test_what_cannot_be_is_said_before_anybody_is_asked(
    tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    """Another scheme, something that is no checksum, one that contradicts the record."""
    file = tmp_path / "weights.h5"
    record_of(file).write_text(f"{'0' * 64}  weights.h5\n")

    with pytest.raises(UsageError, match=expected):
        download(arguments[0], file, *arguments[1:])


def test_a_record_that_is_none_is_named(tmp_path: Path) -> None:
    """Whoever edited it by hand learns what was expected."""
    file = tmp_path / "weights.h5"
    record_of(file).write_text("?\n")

    with pytest.raises(UsageError, match="expected a checksum as sha256sum writes it"):
        download("http://127.0.0.1:9/x", file)


def test_a_place_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    """A file where the folder should be."""
    (tmp_path / "file").touch()

    with pytest.raises(UsageError, match=r"file.*: .*; expected a place to write to"):
        download(f"{server.address}/weights.h5", tmp_path / "file" / "weights.h5")
