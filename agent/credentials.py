"""Who we are to the broker, and whom we believe: passwords and TLS files, read anew for each connection.

In: paths and an environment. Out: a password, a TLS context.
"""

import hashlib
import ssl
from collections.abc import Mapping
from pathlib import Path

from agent.errors import ConfigError

CREDENTIAL_NAME = "mqtt_password"  # LoadCredential=mqtt_password:FILE in the unit


def read_password(value: str | None, file: Path | None, environment: Mapping[str, str]) -> str | None:
    """The password: the value, else the file, else systemd's credential `mqtt_password`, else none.

    Args:
        value: as configured.
        file: its first line.
        environment: `CREDENTIALS_DIRECTORY` is looked at.

    Raises:
        ConfigError: the file cannot be read, or is empty.
    """
    if value is not None:
        return value
    if file is None and "CREDENTIALS_DIRECTORY" in environment:
        credential = Path(environment["CREDENTIALS_DIRECTORY"]) / CREDENTIAL_NAME
        try:
            file = credential if credential.exists() else None
        except OSError as error:
            raise ConfigError(f"mqtt password file {credential}: cannot be read ({error.strerror})") from error
    if file is None:
        return None
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"mqtt password file {file}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"mqtt password file {file}: is not UTF-8 text") from error
    if not lines or not lines[0]:
        raise ConfigError(f"mqtt password file {file}: is empty, expected the password on its first line")
    return lines[0]


def tls_context(ca_file: Path | None, cert_file: Path | None, key_file: Path | None) -> ssl.SSLContext:
    """What TLS trusts and shows.

    Args:
        ca_file: PEM; the broker's certificate must be signed by one of these. None for those of the system.
        cert_file: PEM; our certificate. None for none.
        key_file: PEM; its key, without a passphrase.

    Raises:
        ConfigError: a file is missing, or not what it should be.
    """
    for name, file in (("ca_file", ca_file), ("cert_file", cert_file), ("key_file", key_file)):
        if file is not None:
            try:
                file.read_bytes()
            except OSError as error:
                raise ConfigError(f"mqtt.tls.{name} {file}: cannot be read ({error.strerror})") from error
    # A file that was there just now may be gone: somebody is replacing it.
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigError(f"mqtt.tls.ca_file {ca_file}: holds no certificate in PEM ({_reason(error)})") from error
    if cert_file is not None:
        try:
            # Without the empty passphrase, OpenSSL would ask for one at the terminal.
            context.load_cert_chain(cert_file, key_file, password="")
        except OSError as error:
            raise ConfigError(
                f"mqtt.tls.cert_file {cert_file}, key_file {key_file}: "
                f"expected a certificate and its key without a passphrase, in PEM ({_reason(error)})"
            ) from error
    return context


def tls_sha256(*files: Path | None) -> str:
    """SHA-256 of what TLS trusts and shows; a renewed certificate has another.

    Raises:
        ConfigError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            content = b"" if file is None else file.read_bytes()
        except OSError as error:
            raise ConfigError(f"mqtt.tls file {file}: cannot be read ({error.strerror})") from error
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _reason(error: OSError) -> str | None:
    return error.reason if isinstance(error, ssl.SSLError) else error.strerror
