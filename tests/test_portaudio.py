"""The right microphone is found by what people call it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.errors import DeviceAwayError, DeviceError
from agent.mono import Channel
from agent.portaudio import InputDevice, channels_to_open, find_device, shortest_name
from tests.sound_server import SoundServer

DEVICES = (
    InputDevice(0, "HDA Intel PCH: ALC269VC Analog (hw:0,0)", "ALSA", 2, 44_100, False),
    InputDevice(2, "USB PnP Sound Device: Audio (hw:1,0)", "ALSA", 1, 48_000, False),
    InputDevice(3, "AudioMoth: USB Audio (hw:2,0)", "ALSA", 1, 384_000, False),
    InputDevice(5, "AudioMoth: USB Audio (hw:3,0)", "ALSA", 1, 384_000, False),
    InputDevice(7, 'The "good" mic\t', "ALSA", 2, 48_000, False),
    InputDevice(8, "pulse", "ALSA", 32, 44_100, False),
    InputDevice(9, "pulse", "JACK Audio Connection Kit", 2, 48_000, False),
    InputDevice(10, "default", "ALSA", 32, 44_100, True),
    InputDevice(11, "default mic", "ALSA", 1, 44_100, False),
)


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (None, 10),
        (2, 2),
        ("USB PnP Sound Device: Audio (hw:1,0)", 2),
        ("usb pnp", 2),
        ("hw:1,0", 2),
        ("plughw:1,0", 2),
        ("hw:1", 2),
        ("default", 10),
        ("default mic", 11),
        ("pulse, JACK Audio Connection Kit", 9),
        ("jack", 9),
    ],
)
def test_a_device_is_found_by_what_people_call_it(wanted: str | int | None, index: int) -> None:
    """An index, a whole name, a part of one in any case, and an ALSA name all lead to the device; a whole name wins."""
    assert find_device(wanted, DEVICES).index == index


def test_an_ambiguous_name_is_refused_with_the_candidates() -> None:
    """When a name means several devices, the message says which, so that one can be chosen; waiting would not help."""
    with pytest.raises(DeviceError) as refusal:
        find_device("audiomoth", DEVICES)

    assert not isinstance(refusal.value, DeviceAwayError)
    assert str(refusal.value) == (
        'input device "audiomoth" is ambiguous, expected one of: '
        '3 "AudioMoth: USB Audio (hw:2,0)", 5 "AudioMoth: USB Audio (hw:3,0)"'
    )


@pytest.mark.parametrize("wanted", ["Rode", 1, "hw:1,1", "hw:10,0"])
def test_a_missing_device_is_told_with_those_there_are(wanted: str | int) -> None:
    """When no device is meant, the message says what was asked for and what there is."""
    with pytest.raises(DeviceAwayError) as refusal:
        find_device(wanted, DEVICES[:2])

    assert str(refusal.value) == (
        f"no input device {json.dumps(wanted)}, expected one of: "
        '0 "HDA Intel PCH: ALC269VC Analog (hw:0,0)", 2 "USB PnP Sound Device: Audio (hw:1,0)"'
    )


def test_no_device_at_all_is_told() -> None:
    """A machine without any sound card is told as such."""
    with pytest.raises(DeviceAwayError, match=r"no default input device, expected one of: \(there is none\)"):
        find_device(None, ())


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: str(device.index))
def test_the_shortest_name_finds_the_device(device: InputDevice) -> None:
    """It means exactly the device that it was made for."""
    assert find_device(shortest_name(device, DEVICES), DEVICES) is device


def test_the_shortest_name_survives_a_new_numbering() -> None:
    """A device is named without its card's number wherever the rest of the name is enough."""
    assert shortest_name(DEVICES[1], DEVICES) == "USB PnP Sound Device: Audio"
    assert shortest_name(DEVICES[2], DEVICES) == "AudioMoth: USB Audio (hw:2,0)"


@pytest.mark.parametrize(
    ("n_channels", "channel", "channels", "expected"),
    [(1, "mix", None, 1), (2, "mix", None, 2), (32, "mix", None, 2), (8, "mix", 8, 8), (8, 3, None, 3), (8, 3, 8, 8)],
)
def test_as_many_channels_are_opened_as_are_needed(
    n_channels: int,
    channel: Channel,
    channels: int | None,
    expected: int,
) -> None:
    """A chosen channel opens those up to it, a mix at most two unless the configuration says more."""
    device = InputDevice(0, "mic", "ALSA", n_channels, 48_000, True)

    assert channels_to_open(device, channel, channels) == expected


def test_a_channel_that_the_device_lacks_is_refused() -> None:
    """Asking for the second channel of a microphone with one says so."""
    with pytest.raises(DeviceError, match=r'"mic" has 1 channels, expected 2 for audio.channel = 2'):
        channels_to_open(InputDevice(0, "mic", "ALSA", 1, 48_000, True), 2, None)


@pytest.mark.parametrize("call", ["list_devices()", "Microphone().open()"])
def test_without_portaudio_the_message_says_what_to_install(call: str) -> None:
    """Where libportaudio2 is missing, the module still loads, and the first use says which package to install."""
    program = (
        "import ctypes.util; ctypes.util.find_library = lambda name: None\n"
        "from agent.capture import Microphone\n"
        "from agent.errors import DeviceError\n"
        "from agent.portaudio import list_devices\n"
        f"try: {call}\n"
        "except DeviceError as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert "PortAudio library not found" in said.stdout
    assert "apt-get install libportaudio2" in said.stdout


def test_the_devices_of_a_real_sound_system_are_listed(sound_server: SoundServer) -> None:
    """The list names the devices that can be opened, with rate and channels, and what to call each."""
    program = (
        "import json\n"
        "from agent.portaudio import list_devices, shortest_name\n"
        "devices = list_devices()\n"
        "lines = {d.name: [shortest_name(d, devices), d.is_default, d.n_channels > 0] for d in devices}\n"
        "print(json.dumps(lines))\n"
    )
    environment = sound_server.environment | {"PYTHONPATH": os.pathsep.join(sys.path)}
    listed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )

    devices = json.loads(listed.stdout)
    assert devices["testmic"] == ["testmic", False, True]
    assert devices["default"] == ["default", True, True]


LISTS_DEVICES = """
import json
from agent.errors import DeviceAwayError
from agent.portaudio import list_devices
try:
    print(json.dumps([device.name for device in list_devices()]))
except DeviceAwayError as error:
    print(error)
"""


def listed_with(configuration: bytes, sound_server: SoundServer, folder: Path) -> str:
    """What a child says of the devices of a sound system whose ALSA configuration goes on like this."""
    before = Path(sound_server.environment["ALSA_CONFIG_PATH"]).read_bytes()
    (folder / "asound.conf").write_bytes(before + configuration)
    own = {"PYTHONPATH": os.pathsep.join(sys.path), "ALSA_CONFIG_PATH": str(folder / "asound.conf")}
    return subprocess.run(
        [sys.executable, "-c", LISTS_DEVICES],
        env=sound_server.environment | own,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout


def test_a_device_with_an_odd_name_does_not_cost_the_others(sound_server: SoundServer, tmp_path: Path) -> None:
    """Some other device whose name is not UTF-8 is passed over."""
    odd = b'pcm.m\xfcll { type pulse hint { show on description "x" } }\n'

    assert "testmic" in json.loads(listed_with(odd, sound_server, tmp_path))


def test_a_sound_system_that_is_out_of_order_at_first_is_waited_for(sound_server: SoundServer, tmp_path: Path) -> None:
    """PortAudio is initialised as its module is loaded; where that fails, the device is away, not missing for good."""
    assert "PortAudio cannot be initialised (" in listed_with(b"pcm.x {{{ \n", sound_server, tmp_path)
