"""Bad input, as a person meets it: each names the thing, the value and what was expected, and leaves with its code.

What can go wrong while the agent runs is in `test_sensor.py`, a reader that goes away in `test_cli.py`.
"""

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from agent.model_card import DEFAULT_MODEL
from tests.broker import HOST, Broker, BrokerFactory, Certificates, free_port
from tests.commands import Caller, CommandFactory
from tests.street import Sound
from tests.test_inference import YAMNET, network_of

RATE_HZ = 16_000


def noise(duration_s: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(6).normal(0.0, 0.05, round(duration_s * RATE_HZ)).astype(np.float32)


# Recordings


def missing(_: Path) -> str:
    return "no such file or folder"


def empty(file: Path) -> str:
    file.write_bytes(b"")
    return "is empty (0 bytes), expected a recording"


def text(file: Path) -> str:
    file.write_text("Dear diary, today the street was loud.\n" * 100)
    return "not a recording that libsndfile can read"


def header_alone(file: Path) -> str:
    soundfile.write(file, noise(0.0), RATE_HZ)
    return "holds no samples"


def zero_rate(file: Path) -> str:
    soundfile.write(file, noise(1.0), RATE_HZ, subtype="PCM_16")
    content = bytearray(file.read_bytes())
    content[24:28] = struct.pack("<I", 0)
    file.write_bytes(content)
    return "sample rate 0 Hz, expected 1000 to 1000000 Hz"


def folder_without(file: Path) -> str:
    file.mkdir()
    return "no recordings in this folder, expected *.aif"


@pytest.mark.parametrize("command", ["replay", "classify", "levels"])
@pytest.mark.parametrize("spoil", [missing, empty, text, header_alone, zero_rate, folder_without])
def test_what_is_no_recording_is_named_and_does_not_stop_the_others(
    call: Caller, wail: Sound, tmp_path: Path, command: str, spoil: Callable[[Path], str]
) -> None:
    """Something that cannot be read is said in one line, the other recordings are printed, and the code is 3."""
    bad = tmp_path / "bad.wav"
    expectation = spoil(bad)

    said = call(command, bad, wail.file, tmp_path / "missing.wav")

    assert said.code == 3
    told = said.err.splitlines()
    assert len(told) == 2
    assert any(line.startswith(f"urbansound: {bad}: ") and expectation in line for line in told)
    assert f"urbansound: {tmp_path}/missing.wav: no such file or folder" in told
    assert str(wail.file) in said.out
    assert str(bad) not in said.out


def test_a_path_that_may_not_be_looked_at_does_not_stop_the_others(call: Caller, wail: Sound, tmp_path: Path) -> None:
    """Nor does one of which the system does not say what it is."""
    long = tmp_path / ("a" * 300)

    said = call("replay", long, wail.file)

    assert (said.code, said.err) == (3, f"urbansound: {long}: cannot be looked at (File name too long)\n")
    assert str(wail.file) in said.out


@pytest.mark.parametrize("name", ["truncated.wav", "truncated.flac", "truncated.ogg"])
def test_a_truncated_recording_is_heard_as_far_as_it_goes(
    call: Caller, siren: Sound, tmp_path: Path, name: str
) -> None:
    """When a recorder lost power, the events up to there are printed, and the damage is said, with 3."""
    whole = tmp_path / f"whole{Path(name).suffix}"
    soundfile.write(whole, siren.samples, 48_000)
    content = whole.read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])

    said = call("replay", tmp_path / name)

    assert said.code == 3
    (row,) = [json.loads(line) for line in said.out.splitlines()]
    assert (row["label"], row["end_reason"]) == ("siren", "end_of_stream")
    assert 2.0 < row["offset_s"] < siren.duration_s * 0.75
    (line,) = said.err.splitlines()
    assert line.startswith(f"urbansound: {tmp_path / name}: ")
    assert "truncated" in line or "cannot be read beyond" in line


def test_samples_that_are_no_numbers_are_taken_as_silence_and_counted(
    call: Caller, siren: Sound, tmp_path: Path
) -> None:
    """NaN and infinite samples spoil neither the events around them nor the exit code, but are said."""
    samples = siren.samples.astype(np.float32) / np.float32(32768)
    samples[100:110] = np.nan
    samples[200_000:200_003] = np.inf
    soundfile.write(tmp_path / "spoilt.wav", samples, 48_000, subtype="FLOAT")

    said = call("replay", tmp_path / "spoilt.wav")

    assert said.code == 0
    assert said.err == f"urbansound: {tmp_path}/spoilt.wav: 13 samples were not numbers, taken as silence\n"
    (row,) = [json.loads(line) for line in said.out.splitlines()]
    assert row["label"] == "siren"
    assert 0.0 < row["likelihood_mean"] <= row["likelihood_peak"] <= 1.0


def test_forty_channels_are_heard(call: Caller, siren: Sound, tmp_path: Path) -> None:
    """The mix of forty equal channels is one of them."""
    soundfile.write(tmp_path / "forty.wav", np.repeat(siren.samples[:240_000, None], 40, axis=1), 48_000)
    soundfile.write(tmp_path / "one.wav", siren.samples[:240_000], 48_000)

    forty, one = call("replay", tmp_path / "forty.wav"), call("replay", tmp_path / "one.wav")

    assert (forty.code, forty.err) == (0, "")
    assert forty.out == one.out.replace("one.wav", "forty.wav")
    assert '"siren"' in one.out


def test_a_channel_that_is_not_there_is_said(call: Caller, tmp_path: Path) -> None:
    """The message says how many there are."""
    soundfile.write(tmp_path / "mono.wav", noise(1.0), RATE_HZ)

    said = call("classify", "--channel", "2", tmp_path / "mono.wav")

    assert said.code == 3
    assert f"urbansound: {tmp_path}/mono.wav: channel 2 wanted, expected 1 to 1 or mix\n" == said.err


def test_a_recording_of_0_05_s_is_judged_once(call: Caller, tmp_path: Path) -> None:
    """The shortest clips of UrbanSound8K have 0.05 s: padded to one window, they get their label."""
    soundfile.write(tmp_path / "short.wav", noise(0.05), RATE_HZ)

    classified = call("classify", "--format", "jsonl", tmp_path / "short.wav")
    replayed = call("replay", tmp_path / "short.wav")

    assert (classified.code, classified.err) == (0, "")
    assert json.loads(classified.out)["n_windows"] == 1
    assert (replayed.code, replayed.err) == (0, "")


@pytest.mark.parametrize(
    ("sent", "arguments", "message"),
    [
        (b"", ("--rate", "16000"), "standard input: holds no samples"),
        (bytes(32_001), ("--rate", "16000"), "standard input: 1 bytes at the end are no whole sample"),
        (bytes(10), ("--rate", "0"), "standard input: sample rate 0 Hz, expected 1000 to 1000000 Hz"),
        (bytes(10), ("--rate", "16000", "--channels", "0"), "standard input: 0 channels, expected at least 1"),
    ],
    ids=["nothing", "half a sample", "no rate", "no channels"],
)
def test_raw_pcm_that_cannot_be_is_said(
    urbansound: CommandFactory, tmp_path: Path, sent: bytes, arguments: tuple[str, ...], message: str
) -> None:
    """Standard input has no header to check; what can be told is told."""
    (tmp_path / "pcm").write_bytes(sent)
    with (tmp_path / "pcm").open("rb") as pcm:
        replayed = urbansound("replay", "-", *arguments, stdin=pcm)

        assert replayed.wait() == 3
    assert replayed.stderr.startswith(f"urbansound: {message}")


# Configuration


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[audio]\ndevise = 1\n", "unknown key audio.devise, did you mean audio.device?"),
        ("[mqqt]\nhost = 'x'\n", "unknown key mqqt, did you mean mqtt?"),
        ("[events.classes.siren]\nonn = 0.5\n", "unknown key events.classes.siren.onn, did you mean"),
        ("[mqtt]\nport = '1883'\n", "mqtt.port = '1883': Input should be a valid integer"),
        ("[events.default]\non = 1.5\n", "events.default.on = 1.5: Input should be less than or equal to 1"),
        ("[events.default]\non = 0.2\noff = 0.6\n", "off = 0.6, expected at most on = 0.2"),
        ("[events.classes.siren]\noff = 0.99\n", "events for siren: off = 0.99, expected at most on = "),
        (
            "[events.classes.sirene]\non = 0.5\n",
            "events.classes.sirene: unknown class, expected one of air_conditioner",
        ),
        ("[inference]\nwindow_hop_s = 0.033\n", "inference.window_hop_s = 0.033: expected a multiple"),
        ("[audio]\nchannel = 3\nchannels = 2\n", "channel = 3, expected at most channels = 2"),
        ("[mqtt]\npassword = 'x'\n", "mqtt.password is set and mqtt.username is not, expected both"),
        ("[mqtt]\npassword_file = '/none'\n", "mqtt password file /none: cannot be read (No such file or directory)"),
        ("[mqtt.tls]\nenabled = true\nca_file = '/none'\n", "mqtt.tls.ca_file /none: cannot be read (No such file"),
        ("[mqtt\n", "not TOML"),
    ],
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_wrong_configuration_is_explained(
    call: Caller, tmp_path: Path, command: str, content: str, message: str
) -> None:
    """`check` finds what `run` would stumble over: the key, its value and what was expected, with 78."""
    file = tmp_path / "agent.toml"
    file.write_text(content + f"[spool]\npath = '{tmp_path}/spool.sqlite'\n")

    said = call(*(("check", file) if command == "check" else ("run", "--config", file)))

    assert (said.code, said.out) == (78, "")
    (line,) = said.err.splitlines()
    assert line.startswith("urbansound: ")
    assert message in line


def test_a_missing_configuration_is_named(call: Caller, tmp_path: Path) -> None:
    """Defaults do not stand in for a file that was asked for."""
    said = call("run", "--config", tmp_path / "none.toml")

    assert said.code == 78
    assert said.err == f"urbansound: configuration {tmp_path}/none.toml: cannot be read (No such file or directory)\n"


def test_a_wrong_environment_is_named(call: Caller, monkeypatch: pytest.MonkeyPatch, wail: Sound) -> None:
    """When a variable is wrong, the message names it, not only the key."""
    monkeypatch.setenv("URBANSOUND_EVENTS__DEFAULT__ON", "1.5")

    said = call("replay", wail.file)

    assert (said.code, said.out) == (78, "")
    assert (
        "URBANSOUND_EVENTS__DEFAULT__ON: events.default.on = 1.5: Input should be less than or equal to 1" in said.err
    )


# The model folder


def changed_byte(folder: Path) -> str:
    file = folder / "embedding.tflite"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return f"model file {file}: sha256 is {hashlib.sha256(content).hexdigest()}, the card says "


def missing_file(folder: Path) -> str:
    (folder / "classifier.tflite").unlink()
    return f"model file {folder}/classifier.tflite: cannot be read (No such file or directory), the card names it"


def missing_card(folder: Path) -> str:
    (folder / "model.json").unlink()
    return f"model folder {folder}: cannot read model.json (No such file or directory)"


def put(folder: Path, content: bytes) -> Path:
    """Put another file in the place of the embedding, with a card that vouches for it and knows no streaming form."""
    file = folder / "embedding.tflite"
    file.write_bytes(content)
    card = json.loads((folder / "model.json").read_text())
    card["embedding"]["sha256"] = hashlib.sha256(content).hexdigest()
    card["streaming"] = None
    (folder / "model.json").write_text(json.dumps(card))
    return file


def float_network(folder: Path) -> str:
    card = json.loads((folder / "model.json").read_text())["embedding"]
    file = put(folder, network_of([card["input"]["shape"], card["output"]["shape"]], is_float=True))
    return f"model file {file}: input dtype is float32, the card says int8"


def yamnet(folder: Path) -> str:
    if not YAMNET.exists():
        pytest.skip(f"no {YAMNET}")
    file = put(folder, YAMNET.read_bytes())
    return f"model file {file}: input shape is (15600,), the card says (1, 76, 64, 1)"


def no_network(folder: Path) -> str:
    file = put(folder, b"not a network")
    return f"model file {file}: LiteRT cannot load it"


def no_classifier(folder: Path) -> str:
    card = json.loads((folder / "model.json").read_text())
    del card["classifier"], card["groups"], card["events"]["classes"]
    (folder / "model.json").write_text(json.dumps(card | {"labels": [], "background_label": None}))
    return (
        f"model folder {folder}: l3-edge-us8k is an embedding without a classifier, expected both; "
        f"`urbansound-model head --base {folder}` teaches it classes"
    )


@pytest.mark.parametrize(
    "spoil", [changed_byte, missing_file, missing_card, float_network, yamnet, no_network, no_classifier]
)
@pytest.mark.parametrize("command", ["check", "run", "classify"])
def test_a_spoilt_model_is_not_used(call: Caller, tmp_path: Path, spoil: Callable[[Path], str], command: str) -> None:
    """A model that is not what its card says is never run: the file, what it is and what it should be, with 78."""
    folder = Path(shutil.copytree(DEFAULT_MODEL, tmp_path / "model"))
    expectation = spoil(folder)
    config = tmp_path / "agent.toml"
    config.write_text(f"[model]\npath = '{folder}'\n[spool]\npath = '{tmp_path}/spool.sqlite'\n")
    soundfile.write(tmp_path / "noise.wav", noise(1.0), RATE_HZ)

    arguments = {"check": (config,), "run": ("--config", config)}
    said = call(command, *arguments.get(command, ("--config", config, tmp_path / "noise.wav")))

    assert said.code == 78
    (line,) = said.err.splitlines()
    assert expectation in line


# Broker and spool


def watch_config(folder: Path, port: int, more: str = "") -> Path:
    file = folder / "agent.toml"
    file.write_text(f'[mqtt]\nhost = "{HOST}"\nport = {port}\n{more}')
    return file


def test_watching_without_a_broker_is_said(call: Caller, tmp_path: Path) -> None:
    """`watch` with nobody on the port ends with 69 and the reason."""
    port = free_port()

    said = call("watch", "--config", watch_config(tmp_path, port))

    assert (said.code, said.out) == (69, "")
    assert said.err == f"urbansound: MQTT broker {HOST}:{port}: connection refused\n"


def test_watching_with_a_wrong_password_is_said(call: Caller, make_broker: BrokerFactory, tmp_path: Path) -> None:
    """So does a wrong password, which is not shown."""
    broker = make_broker(passwords={"fleet": "correct horse"}).start()
    config = watch_config(tmp_path, broker.port, 'username = "fleet"\npassword = "battery staple"\n')

    said = call("watch", "--config", config)

    assert (said.code, said.out) == (69, "")
    why = "refuses us, user name 'fleet': wrong password, or not allowed (Not authorized)"
    assert said.err == f"urbansound: MQTT broker {HOST}:{broker.port}: {why}\n"


def test_watching_with_a_wrong_ca_is_said(
    call: Caller,
    make_broker: BrokerFactory,
    certificates: Certificates,
    other_certificates: Certificates,
    tmp_path: Path,
) -> None:
    """So does a broker whose certificate nobody that we trust has signed."""
    broker = make_broker(certificates=certificates).start()
    config = watch_config(tmp_path, broker.port, f'[mqtt.tls]\nenabled = true\nca_file = "{other_certificates.ca}"\n')

    said = call("watch", "--config", config)

    assert (said.code, said.out) == (69, "")
    assert said.err.startswith(f"urbansound: MQTT broker {HOST}:{broker.port}: its certificate is not trusted (")


@pytest.mark.parametrize("command", ["run", "replay"])
@pytest.mark.parametrize("place", ["/proc", "FILE"])
def test_a_spool_that_cannot_be_written_is_said(
    call: Caller, wail: Sound, tmp_path: Path, place: str, command: str
) -> None:
    """Where not even root can write, or a file is in the way, the agent does not begin: 74, and what cannot be used."""
    folder = Path(place.replace("FILE", str(tmp_path / "file")))
    (tmp_path / "file").write_text("in the way")
    config = tmp_path / "agent.toml"
    config.write_text(f"[spool]\npath = '{folder}/spool.sqlite'\n")

    arguments = () if command == "run" else ("--publish", "--start", "now", wail.file)
    said = call(command, "--config", config, *arguments)

    assert (said.code, said.out) == (74, "")
    (line,) = said.err.splitlines()
    assert line.startswith(
        f"urbansound: spool {folder}/{'' if command == 'run' else 'replay-'}spool.sqlite: cannot be used ("
    )


def test_two_agents_do_not_share_a_spool(
    urbansound: CommandFactory, call: Caller, broker: Broker, tmp_path: Path
) -> None:
    """The second agent with the same spool says so and leaves; the first goes on."""
    config = tmp_path / "agent.toml"
    config.write_text(
        f'[audio]\ndevice = "none"\n[mqtt]\nhost = "{HOST}"\nport = {broker.port}\n'
        f"[spool]\npath = '{tmp_path}/spool.sqlite'\n"
    )
    first = urbansound("run", "--config", config)
    first.wait_for_log("mqtt.connected")

    second = call("run", "--config", config)

    assert second.code == 74
    assert f"spool {tmp_path}/spool.sqlite: is in use by another agent, expected one agent a spool" in second.err
    assert first.process.poll() is None
