"""Any recording becomes the same blocks of mono samples; what is wrong with it is said, and nothing good is lost."""

import io
import itertools
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from agent.errors import RecordingError
from agent.pcm import PCM_FORMATS
from agent.recordings import walk
from agent.values import AudioBlock, FloatArray
from agent.wavfile import Recording, open_recording, raw_pcm

RATE_HZ = 16_000
PCM, FLOAT = 1, 3


@pytest.fixture
def noise() -> FloatArray:
    """Half a second of seeded noise, on the grid of 16 bits."""
    steps = np.random.default_rng(5).integers(-9000, 9000, RATE_HZ // 2)
    return (steps / 32768).astype(np.float32)


def wav_bytes(
    samples: bytes, *, tag: int = PCM, bits: int = 16, channels: int = 1, rate_hz: int = RATE_HZ, n: int | None = None
) -> bytes:
    """A WAV file written by hand; `n` is the number of bytes that its header promises."""
    promised = len(samples) if n is None else n
    frame_bytes = channels * bits // 8
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", (36 + promised) % 2**32, b"WAVE"),
        *(b"fmt ", 16, tag, channels, rate_hz, rate_hz * frame_bytes % 2**32, frame_bytes, bits),
        *(b"data", promised),
    )
    return header + samples


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def joined(blocks: list[AudioBlock]) -> FloatArray:
    return np.concatenate([block.samples for block in blocks])


def rms(samples: FloatArray) -> float:
    return float(np.sqrt(np.mean(samples**2)))


def samples_of(recording: Recording) -> FloatArray:
    with recording:
        return joined(list(recording.blocks()))


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("u8.wav", {"subtype": "PCM_U8"}, 0.05),
        ("s16.wav", {"subtype": "PCM_16"}, 0.0),
        ("s24.wav", {"subtype": "PCM_24"}, 0.0),
        ("s32.wav", {"subtype": "PCM_32"}, 0.0),
        ("f32.wav", {"subtype": "FLOAT"}, 0.0),
        ("f64.wav", {"subtype": "DOUBLE"}, 0.0),
        ("x.flac", {}, 0.0),
        ("x.rf64", {"format": "RF64"}, 0.0),
        ("x.aiff", {}, 0.0),
        ("x.ogg", {}, 0.5),
        ("x.mp3", {"format": "MP3"}, 0.8),  # white noise is the hardest; another sound would differ by 1.4
    ],
)
def test_every_format_gives_the_same_sound(
    tmp_path: Path, noise: FloatArray, name: str, options: dict[str, Any], tolerance: float
) -> None:
    """A recording sounds the same whatever format it was kept in, up to what the format itself loses."""
    soundfile.write(tmp_path / name, noise, RATE_HZ, **options)

    with open_recording(tmp_path / name) as recording:
        blocks = list(recording.blocks())

    assert (recording.sample_rate_hz, recording.n_channels, recording.n_samples) == (RATE_HZ, 1, len(noise))
    assert recording.duration_s == 0.5
    assert recording.problem is None
    assert rms(joined(blocks) - noise) <= tolerance * rms(noise)
    assert blocks[0].samples.dtype == np.float32
    assert not blocks[0].samples.flags.writeable


@pytest.mark.parametrize("block_samples", [1, 17, 160, 4_801, 1_000_000])
def test_blocks_of_any_size_join_to_the_whole(tmp_path: Path, noise: FloatArray, block_samples: int) -> None:
    """Blocks follow one another without a gap, and only the last one may be shorter."""
    soundfile.write(tmp_path / "x.wav", noise, RATE_HZ)

    with open_recording(tmp_path / "x.wav") as recording:
        blocks = list(recording.blocks(block_samples))

    np.testing.assert_array_equal(joined(blocks), noise)
    assert [block.first_sample for block in blocks] == list(range(0, len(noise), block_samples))
    assert {len(block.samples) for block in blocks[:-1]} <= {block_samples}
    assert {block.lost_before for block in blocks} == {0}


@pytest.mark.parametrize(
    ("name", "options", "seekable"),
    [
        ("x.wav", {}, True),
        ("x.flac", {"subtype": "PCM_24"}, True),
        ("x.aiff", {"subtype": "ULAW"}, True),
        ("x.wav", {"subtype": "IMA_ADPCM"}, False),
        ("x.ogg", {}, False),
        ("x.mp3", {}, False),
    ],
)
def test_a_recording_can_be_opened_in_its_middle(
    tmp_path: Path, noise: FloatArray, name: str, options: dict[str, Any], seekable: bool
) -> None:
    """Where it says so, the samples from there on are the same, in blocks of any length, and so are their numbers."""
    soundfile.write(tmp_path / name, noise, RATE_HZ, **options)
    whole = samples_of(open_recording(tmp_path / name))
    assert open_recording(tmp_path / name).seekable == seekable
    if not seekable:
        return

    recording = open_recording(tmp_path / name, first_sample=3_333)
    blocks = [*itertools.islice(recording.blocks(500), 3), *recording.blocks(1_000)]

    np.testing.assert_array_equal(joined(blocks), whole[3_333:])
    assert [block.first_sample for block in blocks] == [3_333, 3_833, 4_333, 4_833, 5_833, 6_833, 7_833]
    assert recording.problem is None


def test_long_blocks_lose_no_more_of_a_broken_file(tmp_path: Path) -> None:
    """Of a recording that was cut off in a long block, what comes before the cut is heard, but for a second at most."""
    samples = np.random.default_rng(5).normal(0.0, 0.1, 20 * RATE_HZ).astype(np.float32)
    soundfile.write(tmp_path / "x.flac", samples, RATE_HZ)
    content = (tmp_path / "x.flac").read_bytes()
    (tmp_path / "x.flac").write_bytes(content[: len(content) * 3 // 4])

    with open_recording(tmp_path / "x.flac") as short, open_recording(tmp_path / "x.flac") as long:
        expected, actual = joined(list(short.blocks())), joined(list(long.blocks(long.long_block)))

    np.testing.assert_array_equal(actual, expected)
    assert len(actual) > 13.5 * RATE_HZ
    assert long.problem == short.problem is not None


@pytest.mark.parametrize(
    ("rate_hz", "n_channels", "seconds"),
    [(16_000, 1, 10), (48_000, 1, 10), (48_000, 2, 5), (48_000, 8, 1), (10**6, 1, 1)],
)
def test_long_blocks_need_little_memory(tmp_path: Path, rate_hz: int, n_channels: int, seconds: int) -> None:
    """They hold up to ten seconds, less of many channels, and of a stream one second, as it may be live."""
    soundfile.write(tmp_path / "x.wav", np.zeros((10, n_channels)), rate_hz)
    stream = raw_pcm(io.BytesIO(), sample_rate_hz=rate_hz, channels=n_channels, format="s16le")

    assert open_recording(tmp_path / "x.wav").long_block == seconds * rate_hz
    assert stream.long_block == rate_hz


def test_channels_are_chosen_or_mixed(tmp_path: Path, noise: FloatArray) -> None:
    """The mix is the mean of all channels; a chosen channel is that one alone, counted from 1."""
    left_right = np.stack((noise, -noise[::-1]), axis=1)
    soundfile.write(tmp_path / "x.wav", left_right, RATE_HZ)

    np.testing.assert_array_equal(samples_of(open_recording(tmp_path / "x.wav", 1)), noise)
    np.testing.assert_array_equal(samples_of(open_recording(tmp_path / "x.wav", 2)), -noise[::-1])
    mix = samples_of(open_recording(tmp_path / "x.wav"))
    np.testing.assert_allclose(mix, left_right.mean(axis=1), atol=1e-7)


def test_forty_channels_are_just_more_channels(tmp_path: Path, noise: FloatArray) -> None:
    """A microphone array of 40 channels is mixed like any other recording."""
    gains = np.linspace(0.1, 1.0, 40)
    soundfile.write(tmp_path / "x.wav", noise[:, None] * gains, RATE_HZ, subtype="FLOAT")

    recording = open_recording(tmp_path / "x.wav")

    assert recording.n_channels == 40
    np.testing.assert_allclose(samples_of(recording), noise * gains.mean(), atol=1e-6)


def test_real_recordings_are_read_whole(recordings: Path) -> None:
    """Every sample of real Ogg and FLAC recordings arrives, and none of them is called broken."""
    paths, problems = walk([recordings / "sonyc", recordings / "esc10" / "fold1"])
    assert not problems
    assert {path.suffix for path in paths} == {".flac", ".ogg"}
    for path in paths[::8]:
        expected = soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1)
        recording = open_recording(path)
        np.testing.assert_array_equal(samples_of(recording), expected)
        assert recording.problem is None


def test_a_recording_of_hours_needs_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    """Two hours at 8 kHz are read in blocks: the memory in use stays that of some blocks."""
    n = 2 * 3600 * 8_000
    with (tmp_path / "long.wav").open("wb") as file:
        file.write(wav_bytes(b"", bits=8, rate_hz=8_000, n=n))
        file.truncate(file.tell() + n)  # a sparse file: as long as it says, without filling the disk

    tracemalloc.start()
    with open_recording(tmp_path / "long.wav") as recording:
        n_read = sum(len(block.samples) for block in recording.blocks(80_000))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert (n_read, recording.duration_s, recording.problem) == (n, 7200.0, None)
    assert peak_bytes < 10 * 80_000 * 4


# What is wrong with a file


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty (0 bytes), expected a recording"),
        (
            b"dear diary, today no dogs barked. " * 50,
            "not a recording that libsndfile can read (Format not recognised)",
        ),
        (wav_bytes(bytes(320), rate_hz=0), "sample rate 0 Hz, expected 1000 to 1000000 Hz"),
        (wav_bytes(bytes(320), rate_hz=4_000_000_000), "sample rate 4000000000 Hz, expected 1000 to 1000000 Hz"),
        (wav_bytes(bytes(320), rate_hz=50), "sample rate 50 Hz, expected 1000 to 1000000 Hz"),
        (wav_bytes(bytes(320), channels=0), "not a recording that libsndfile can read (Channel count is zero)"),
        (wav_bytes(b""), "holds no samples"),
        (wav_bytes(bytes(320), n=0), "holds no samples; its header says 0 bytes of samples, but 320 bytes follow"),
        (
            wav_bytes(b"", n=320),
            "holds no samples; truncated, its header promises 320 bytes of samples, and 0 are there",
        ),
        (wav_bytes(b"")[:20], "not a recording that libsndfile can read"),
        (wav_bytes(b"")[:12] + bytes(4000), "not a recording that libsndfile can read"),
    ],
)
def test_what_is_no_recording_is_refused_with_the_reason(tmp_path: Path, content: bytes, message: str) -> None:
    """A file without usable sound is refused by name, with what was found and what was expected."""
    path = written(tmp_path / "x.wav", content)

    with pytest.raises(RecordingError) as refusal:
        open_recording(path)

    assert str(refusal.value).startswith(f"{path}: {message}")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.wav", "nowhere.wav: cannot be opened (No such file or directory)"),
        (".", "is a folder, expected a recording"),
        ("/dev/null", "/dev/null: is not a regular file, expected a recording"),
    ],
)
def test_what_is_no_file_is_refused_with_the_reason(tmp_path: Path, path: str, message: str) -> None:
    """A path that leads to no file is refused by name, with the reason."""
    with pytest.raises(RecordingError) as refusal:
        open_recording(tmp_path / path)

    assert message in str(refusal.value)


def test_a_channel_that_is_not_there_is_refused(tmp_path: Path, noise: FloatArray) -> None:
    """Asking for the third of two channels is told, with the channels that there are."""
    soundfile.write(tmp_path / "x.wav", np.stack((noise, noise), axis=1), RATE_HZ)

    with pytest.raises(RecordingError, match="channel 3 wanted, expected 1 to 2 or mix"):
        open_recording(tmp_path / "x.wav", 3)


def test_a_truncated_wav_gives_its_good_samples_and_says_so(tmp_path: Path, noise: FloatArray) -> None:
    """When a recorder lost power, what it wrote is heard to the last sample, and the loss is said."""
    soundfile.write(tmp_path / "x.wav", noise, RATE_HZ, subtype="PCM_16")
    path = written(tmp_path / "x.wav", (tmp_path / "x.wav").read_bytes()[: 44 + 2 * 3000 + 1])

    recording = open_recording(path)

    np.testing.assert_array_equal(samples_of(recording), noise[:3000])
    assert recording.problem == (f"{path}: truncated, its header promises 16000 bytes of samples, and 6001 are there")


@pytest.mark.parametrize(
    ("name", "options"), [("x.flac", {}), ("x.ogg", {}), ("x.mp3", {"format": "MP3"}), ("x.rf64", {"format": "RF64"})]
)
def test_other_truncated_files_say_so_too(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    """A compressed recording that was cut short gives what can be decoded, and says that there was more."""
    sound = np.random.default_rng(1).normal(0.0, 0.1, 20 * RATE_HZ)
    soundfile.write(tmp_path / name, sound, RATE_HZ, **options)
    content = (tmp_path / name).read_bytes()
    path = written(tmp_path / name, content[: len(content) // 2])

    recording = open_recording(path)
    n_good = len(samples_of(recording))

    assert 0.3 * len(sound) < n_good < 0.7 * len(sound)
    assert recording.problem is not None
    assert recording.problem.startswith(f"{path}: ")


@pytest.mark.parametrize("promised", [0xFFFF_FFFF, 0x7FFF_FFFF - 36, 0x7FFF_F000])
def test_a_wav_of_unknown_length_is_not_called_truncated(tmp_path: Path, noise: FloatArray, promised: int) -> None:
    """Programs that write a WAV into a pipe promise the most they can; that is no loss."""
    samples = (noise * 32768).astype("<i2").tobytes()
    path = written(tmp_path / "x.wav", wav_bytes(samples, n=promised))

    recording = open_recording(path)

    np.testing.assert_array_equal(samples_of(recording), noise)
    assert recording.problem is None


@pytest.mark.parametrize("block_samples", [1_000, RATE_HZ, 5 * RATE_HZ])
def test_a_flac_of_unknown_length_is_heard_to_its_end(tmp_path: Path, noise: FloatArray, block_samples: int) -> None:
    """Encoders that write into a pipe leave the length out; that is no loss, and costs none."""
    sound = np.tile(noise, 5)
    soundfile.write(tmp_path / "x.flac", sound, RATE_HZ)
    content = bytearray((tmp_path / "x.flac").read_bytes())
    content[21] &= 0xF0  # the number of samples has 36 bits, RFC 9639, section 8.2
    content[22:26] = bytes(4)

    with open_recording(written(tmp_path / "x.flac", bytes(content))) as recording:
        blocks = list(recording.blocks(block_samples))

    np.testing.assert_array_equal(joined(blocks), sound)
    assert (recording.n_samples, recording.seekable, recording.problem) == (None, False, None)


def test_invalid_samples_become_silence_and_are_counted(tmp_path: Path, noise: FloatArray) -> None:
    """NaN and infinite samples are replaced by 0 and counted; the samples around them stay."""
    spoilt = noise.copy()
    spoilt[[10, 11, 5000]] = np.nan, np.inf, -np.inf
    soundfile.write(tmp_path / "x.wav", np.stack((spoilt, noise), axis=1), RATE_HZ, subtype="FLOAT")
    expected = noise.copy()
    expected[[10, 11, 5000]] = 0.0

    spoilt_channel = open_recording(tmp_path / "x.wav", 1)
    np.testing.assert_array_equal(samples_of(spoilt_channel), expected)
    assert spoilt_channel.n_invalid_samples == 3

    good_channel = open_recording(tmp_path / "x.wav", 2)
    np.testing.assert_array_equal(samples_of(good_channel), noise)
    assert good_channel.n_invalid_samples == 0

    mix = open_recording(tmp_path / "x.wav")
    np.testing.assert_allclose(samples_of(mix), (expected + noise) / 2, atol=1e-7)
    assert mix.n_invalid_samples == 3


# Standard input

ENCODERS: dict[str, Callable[[FloatArray], bytes]] = {
    "u8": lambda x: np.round(x * 128 + 128).astype(np.uint8).tobytes(),
    "s16le": lambda x: np.round(x * 2**15).astype("<i2").tobytes(),
    "s24le": lambda x: b"".join(int(v).to_bytes(3, "little", signed=True) for v in np.round(x * 2.0**23)),
    "s32le": lambda x: np.round(x.astype(np.float64) * 2**31).astype("<i4").tobytes(),
    "f32le": lambda x: x.astype("<f4").tobytes(),
}


@pytest.mark.parametrize("pcm_format", PCM_FORMATS)
def test_raw_pcm_gives_the_same_sound_as_a_file(noise: FloatArray, pcm_format: Any) -> None:  # noqa: ANN401
    """Raw samples from standard input sound the same in every format."""
    left_right = np.stack((noise, -noise), axis=1)
    stream = io.BytesIO(ENCODERS[pcm_format](left_right.reshape(-1)))

    recording = raw_pcm(stream, sample_rate_hz=RATE_HZ, channels=2, format=pcm_format, channel=2)
    blocks = list(recording.blocks(1000))

    np.testing.assert_allclose(joined(blocks), -noise, atol=2**-8 if pcm_format == "u8" else 0.0)
    assert [block.first_sample for block in blocks] == list(range(0, len(noise), 1000))
    assert (recording.n_samples, recording.duration_s, recording.problem) == (None, None, None)
    assert not blocks[0].samples.flags.writeable


class Dribble(io.RawIOBase):
    """A pipe whose writer has not finished: every read gives a few bytes, never a whole number of samples."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401
        return self._content.readinto(memoryview(buffer)[:7])


def test_raw_pcm_waits_for_whole_samples(noise: FloatArray) -> None:
    """However a pipe cuts the bytes, the samples stay whole."""
    stream: Any = Dribble(ENCODERS["s24le"](noise[:999]))

    recording = raw_pcm(stream, sample_rate_hz=RATE_HZ, channels=1, format="s24le")

    np.testing.assert_array_equal(joined(list(recording.blocks(100))), noise[:999])


def test_bytes_too_few_for_a_sample_are_said(noise: FloatArray) -> None:
    """A stream that ends in the middle of a sample gives all whole ones, and says what is left over."""
    stream = io.BytesIO(ENCODERS["s16le"](noise[:100]) + b"\1\2\3")

    recording = raw_pcm(stream, sample_rate_hz=RATE_HZ, channels=2, format="s16le", channel=1)

    np.testing.assert_array_equal(joined(list(recording.blocks())), noise[:100:2])
    assert recording.problem == (
        "standard input: 3 bytes at the end are no whole sample, expected a multiple of 4 bytes"
    )


def test_an_empty_stream_is_said() -> None:
    """Nothing on standard input is not silently a recording without events."""
    recording = raw_pcm(io.BytesIO(), sample_rate_hz=RATE_HZ, channels=1, format="s16le")

    assert list(recording.blocks()) == []
    assert recording.problem == "standard input: holds no samples"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "mp3"}, "format mp3, expected one of u8, s16le, s24le, s32le, f32le"),
        ({"channels": 0}, "0 channels, expected at least 1"),
        ({"sample_rate_hz": 0}, "sample rate 0 Hz, expected 1000 to 1000000 Hz"),
        ({"channel": 2}, "channel 2 wanted, expected 1 to 1 or mix"),
    ],
)
def test_what_raw_pcm_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    """Wrong numbers about standard input are told with what was expected."""
    numbers: dict[str, Any] = {"sample_rate_hz": RATE_HZ, "channels": 1, "format": "s16le"} | options

    with pytest.raises(RecordingError) as refusal:
        raw_pcm(io.BytesIO(), **numbers)

    assert str(refusal.value) == f"standard input: {message}"


def test_what_a_file_promises_and_does_not_hold_is_counted(tmp_path: Path, noise: FloatArray) -> None:
    """Of a FLAC file that was cut, the samples that are missing are known."""
    path = tmp_path / "cut.flac"
    noise = np.tile(noise, 20)
    soundfile.write(path, noise, RATE_HZ)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_recording(path) as recording:
        assert recording.n_missing == 0, "not yet known"
        n_read = sum(len(block.samples) for block in recording.blocks())

    assert 0 < n_read < len(noise)
    assert recording.n_missing == len(noise) - n_read
