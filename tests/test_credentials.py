"""Promises of `agent.credentials`: passwords and TLS files, from where they may come and what is said of bad ones."""

import shutil
from pathlib import Path

import pytest

from agent.credentials import read_password, tls_context, tls_sha256
from agent.errors import ConfigError
from tests.broker import Certificates


def test_a_password_comes_from_the_first_place_that_has_one(tmp_path: Path) -> None:
    """The value wins over the file, the file over systemd's credential; without any there is none."""
    file = tmp_path / "password"
    file.write_text("from file\nsecond line\n")
    (tmp_path / "mqtt_password").write_text("from systemd\n")
    systemd = {"CREDENTIALS_DIRECTORY": str(tmp_path)}

    assert read_password("value", file, systemd) == "value"
    assert read_password(None, file, systemd) == "from file"
    assert read_password(None, None, systemd) == "from systemd"
    assert read_password(None, None, {"CREDENTIALS_DIRECTORY": str(tmp_path / "none")}) is None
    assert read_password(None, None, {}) is None


@pytest.mark.parametrize(
    ("content", "why"), [(None, "cannot be read"), (b"", "is empty"), (b"\nsecret\n", "is empty"), (b"\xff", "UTF-8")]
)
def test_a_password_file_that_holds_none_is_named(tmp_path: Path, content: bytes | None, why: str) -> None:
    """A missing, empty or unreadable password file is a configuration error, not an anonymous login."""
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigError, match=f"mqtt password file {file}: .*{why}"):
        read_password(None, file, {})


def test_credentials_that_may_not_be_looked_at_are_named(tmp_path: Path) -> None:
    """Where systemd's folder is none that can be used, nobody logs in anonymously."""
    folder = tmp_path / ("a" * 300)

    with pytest.raises(ConfigError, match=f"mqtt password file {folder}/mqtt_password: cannot be read .*too long"):
        read_password(None, None, {"CREDENTIALS_DIRECTORY": str(folder)})


@pytest.mark.parametrize("name", ["ca_file", "cert_file", "key_file"])
def test_a_missing_certificate_file_is_named(tmp_path: Path, certificates: Certificates, name: str) -> None:
    """The error says which setting names which file that is not there."""
    files = {"ca_file": certificates.ca, "cert_file": certificates.client, "key_file": certificates.client_key}
    missing = tmp_path / "missing.pem"

    with pytest.raises(ConfigError, match=f"mqtt.tls.{name} {missing}: cannot be read \\(No such file"):
        tls_context(**files | {name: missing})


def test_certificate_files_that_are_none_are_named(tmp_path: Path, certificates: Certificates) -> None:
    """Text that is no certificate, and a key of somebody else, are configuration errors."""
    text = tmp_path / "text.pem"
    text.write_text("hello\n")

    with pytest.raises(ConfigError, match=f"mqtt.tls.ca_file {text}: holds no certificate"):
        tls_context(text, None, None)
    with pytest.raises(ConfigError, match=f"key_file {certificates.server_key}: expected a certificate and its key"):
        tls_context(certificates.ca, certificates.client, certificates.server_key)


@pytest.mark.parametrize("name", ["ca_file", "cert_file", "key_file"])
def test_a_certificate_file_that_goes_while_it_is_read_is_no_crash(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Certificates are replaced while the agent runs, and it reads them at each connection: the next one finds them."""
    files = {"ca_file": certificates.ca, "cert_file": certificates.client, "key_file": certificates.client_key}
    replaced = tmp_path / "replaced.pem"
    shutil.copy(files[name], replaced)
    read_bytes = Path.read_bytes

    def read_and_gone(file: Path) -> bytes:
        content = read_bytes(file)
        if file == replaced:
            file.unlink()
        return content

    monkeypatch.setattr(Path, "read_bytes", read_and_gone)

    with pytest.raises(ConfigError, match=f"mqtt.tls.*{replaced}.*\\(No such file"):
        tls_context(**files | {name: replaced})


def test_a_renewed_file_is_another(tmp_path: Path) -> None:
    """By the sum of all files a renewal is noticed, wherever it is; a file that is not there is named."""
    first, second = tmp_path / "ca.pem", tmp_path / "client.pem"
    first.write_text("one")
    second.write_text("two")
    before = tls_sha256(first, second, None)

    assert tls_sha256(first, second, None) == before
    assert tls_sha256(second, first, None) != before
    second.write_text("three")
    assert tls_sha256(first, second, None) != before
    with pytest.raises(ConfigError, match=f"mqtt.tls file {tmp_path / 'gone'}: cannot be read"):
        tls_sha256(first, tmp_path / "gone")
