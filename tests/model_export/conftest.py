"""A data set small enough to train on in a test: sounds made by formula, in the layout that users have."""

import csv
import dataclasses
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from demo.scene import SAMPLE_RATE_HZ, SOUNDS, Sounding, render
from model_export.clips import Clip, esc10, esc10_as_published, urbansound8k
from model_export.train import Recipe

LABELS = ("siren", "jackhammer", "dog_bark")
CLIPS_PER_LABEL = 8
SMALL_RECIPE = Recipe(epochs=12, calm_epochs=3, batch_size=8, noise_clips=12, noise_clip_s=1.5, generations=1)
BRIEF_RECIPE = dataclasses.replace(SMALL_RECIPE, epochs=1, calm_epochs=1)  # for what need not learn


@pytest.fixture(scope="session")
def data_sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a small UrbanSound8K and a small ESC-10."""
    us8k, esc10 = tmp_path_factory.mktemp("us8k"), tmp_path_factory.mktemp("esc10")
    rows = []
    for label in LABELS:
        assert label in SOUNDS
        for number in range(CLIPS_PER_LABEL):
            duration_s = 0.6 if number == 0 else 1.6
            sound = render((Sounding(label, 0.0, duration_s, -20.0),), duration_s, seed=number)
            file = f"{label}-{number}.wav"
            soundfile.write(us8k / file, sound, SAMPLE_RATE_HZ)
            # Two clips of each recording; recordings stay within a fold, but one stands in both, as in the original.
            recording = "both" if number in (0, CLIPS_PER_LABEL - 1) else f"{label}{number // 2}"
            fold = 1 if number < CLIPS_PER_LABEL // 2 else 2
            rows.append({"file": file, "fold": fold, "class": label, "fsID": recording})
    _write_csv(us8k / "metadata.csv", rows)
    rng = np.random.default_rng(0)
    rows = []
    for number, name in enumerate(("rain", "rain", "sea_waves", "dog_bark", "rooster")):
        file = f"{number}-{name}.wav"
        soundfile.write(esc10 / file, 0.05 * rng.standard_normal(44_100 * 2), 44_100)
        rows.append({"file": file, "fold": 1 + number % 2, "class": name, "source_id": str(number)})
    _write_csv(esc10 / "metadata.csv", rows)
    return us8k, esc10


def _write_csv(file: Path, rows: list[dict[str, object]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def clips(data_sets: tuple[Path, Path]) -> list[Clip]:
    """Those that the default recipe learns from."""
    return urbansound8k(data_sets[0]) + esc10(data_sets[1])


@pytest.fixture(scope="module")
def ten_classes(data_sets: tuple[Path, Path]) -> list[Clip]:
    """ESC-10's, each under its own name."""
    return esc10_as_published(data_sets[1])


@pytest.fixture
def data(clips: list[Clip], ten_classes: list[Clip]) -> tuple[list[Clip], list[Clip]]:
    return clips, ten_classes


@pytest.fixture
def full_disk() -> Callable[[], AbstractContextManager[None]]:
    """While it lasts, a file takes a hundred bytes and no more."""

    @contextmanager
    def full() -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return full


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network as others publish them: float32 (15600,) at 16 kHz, an embedding of 6 values, then scores."""
    import tensorflow as tf

    rng = np.random.default_rng(3)
    first, second = (tf.constant(rng.normal(size=shape), tf.float32) for shape in ((6, 390), (4, 6)))

    @tf.function(input_signature=[tf.TensorSpec([15_600], tf.float32)])  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def scores(waveform: tf.Tensor) -> tf.Tensor:
        power = tf.math.log(tf.reduce_mean(tf.reshape(waveform, [1, 390, 40]) ** 2, axis=2) + 1e-6)
        embedding = tf.nn.relu(tf.linalg.matmul(power, first, transpose_b=True))
        return tf.sigmoid(tf.linalg.matmul(embedding, second, transpose_b=True))

    converter = tf.lite.TFLiteConverter.from_concrete_functions([scores.get_concrete_function()])
    file = tmp_path_factory.mktemp("published") / "loudness.tflite"
    file.write_bytes(converter.convert())
    return file


@pytest.fixture(scope="session")
def spectrogram_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that takes the spectrogram of SONYC's sensors, and is an MLP of two layers and nothing else."""
    import keras
    import tensorflow as tf

    spectrogram = keras.Input((64, 51, 1), batch_size=1)
    hidden = keras.layers.Dense(4)(keras.layers.Flatten()(spectrogram))
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(spectrogram, keras.layers.Dense(2)(hidden)))
    file = tmp_path_factory.mktemp("published") / "spectrogram.tflite"
    file.write_bytes(converter.convert())
    return file


@pytest.fixture(scope="session")
def trained(data_sets: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `train` writes after a few epochs."""
    from model_export.clips import esc10, urbansound8k
    from model_export.train import train

    out = tmp_path_factory.mktemp("networks")
    train(urbansound8k(data_sets[0]) + esc10(data_sets[1]), SMALL_RECIPE, out)
    return out


@pytest.fixture(scope="session")
def quantized(data_sets: tuple[Path, Path], trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both TFLite files as the command `quantize` writes them, and nothing else."""
    from model_export.cli import main

    us8k, esc10 = data_sets
    out = tmp_path_factory.mktemp("quantized")
    data = ["--us8k", str(us8k), "--esc10", str(esc10)]
    assert main(["quantize", *data, "--networks", str(trained), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def packaged(
    data_sets: tuple[Path, Path], trained: Path, quantized: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A whole model folder, made by the command `package` from what `quantize` wrote."""
    from model_export.cli import main

    us8k, esc10 = data_sets
    out = tmp_path_factory.mktemp("model")
    shutil.copytree(quantized, out, dirs_exist_ok=True)
    data = ["--us8k", str(us8k), "--esc10", str(esc10)]
    assert main(["package", *data, "--networks", str(trained), "--model", str(out)]) == 0
    return out
