"""Train the L3 audio network and its MLP together, from scratch, on labelled clips; published networks may teach.

In: clips, teachers. Out: a folder with `embedding.keras`, `classifier.keras` and `training.json` (the recipe and how it
went). The number of epochs is fixed in advance; nothing is chosen by looking at a validation set.
"""

import dataclasses
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from agent.errors import UsageError
from agent.values import FloatArray
from model_export import networks, noise
from model_export.augment import Augmentation, Example, TrainingClips, WindowDrawer
from model_export.clips import BACKGROUND, LABELS, Clip
from model_export.features import FRONT_END, frames_of, frames_of_clips
from model_export.published import PublishedNetwork

log = logging.getLogger(__name__)

TRAINING_NAME = "training.json"
CALM = Augmentation(mixup_probability=0.15, background_probability=0.3, masks=1)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the network is trained. AdamW under a one-cycle schedule; the weights are averaged over the steps.

    Two phases: with all that `Augmentation` does, then a short calm one with little mixing, at a lower rate. With
    teachers, a layer that is thrown away afterwards predicts their embeddings from ours; its mean squared error,
    relative to the variance of theirs, counts `lesson_weight` times beside the cross-entropy of the labels.

    Source: one cycle, Smith and Topin 2019; AdamW, Loshchilov and Hutter, ICLR 2019.
    """

    epochs: int = 24
    calm_epochs: int = 6
    batch_size: int = 16
    learning_rate: float = 1.5e-3
    calm_learning_rate: float = 4e-4
    weight_decay: float = 0.05
    warm_up: float = 0.25
    average_momentum: float = 0.995
    noise_clips: int = 240
    noise_clip_s: float = 4.0
    lesson_weight: float = 3.0
    seed: int = 20190512


class OneCycle(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """The learning rate rises to its peak and falls to nothing, both along a cosine."""

    def __init__(self, peak: float, n_steps: int, warm_up: float) -> None:
        self._peak, self._n_steps, self._warm_up = peak, n_steps, warm_up

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The rate at a step."""
        part = tf.cast(step, tf.float32) / self._n_steps
        rising = 0.5 * (1.0 - tf.cos(math.pi * part / self._warm_up))
        falling = 0.5 * (1.0 + tf.cos(math.pi * (part - self._warm_up) / (1.0 - self._warm_up)))
        return self._peak * tf.maximum(tf.where(part < self._warm_up, rising, falling), 1e-3)


def training_clips(clips: Sequence[Clip], recipe: Recipe, teachers: Sequence[PublishedNetwork]) -> TrainingClips:
    """The clips and synthetic background noise, with the teachers' lessons."""
    rate_hz, background = FRONT_END.sample_rate_hz, LABELS.index(BACKGROUND)
    rng = np.random.default_rng(recipe.seed)
    n_samples = round(recipe.noise_clip_s * rate_hz)
    noises = [noise.background(n_samples, rate_hz, rng) for _ in range(recipe.noise_clips)]
    frames = frames_of_clips(clips) + [frames_of(sound, rate_hz) for sound in noises]
    targets = [LABELS.index(clip.label) for clip in clips] + [background] * len(noises)
    lessons = [np.zeros((1, 0), np.float32)] * len(frames)
    if teachers:
        heard = [
            _centred(teacher.embeddings_of(clips) + [teacher.embeddings(sound, rate_hz) for sound in noises])
            for teacher in teachers
        ]
        lessons = [_side_by_side(rows) for rows in zip(*heard, strict=True)]
    return TrainingClips(frames, np.asarray(targets, np.int64), len(LABELS), background, lessons)


def _centred(rows: Sequence[FloatArray]) -> list[FloatArray]:
    """Embeddings around their mean, in units of their root mean square deviation."""
    mean = np.concatenate(rows).mean(axis=0)
    deviation = np.sqrt(np.mean((np.concatenate(rows) - mean) ** 2))
    return [(row - mean) / deviation for row in rows]


def _side_by_side(rows: Sequence[FloatArray]) -> FloatArray:
    """What several teachers say of one clip; a teacher with a longer window has fewer of them."""
    n_windows = min(len(row) for row in rows)
    return np.concatenate([row[:n_windows] for row in rows], axis=1)


def train(
    clips: Sequence[Clip], recipe: Recipe, out: Path, *, teachers: Sequence[PublishedNetwork] = (), num_threads: int = 0
) -> tuple[keras.Model, keras.Model]:
    """Train on all the clips given.

    Args:
        clips: the training clips.
        recipe: how.
        out: folder for the networks and the record of the run.
        teachers: published networks to learn from besides the labels.
        num_threads: for TensorFlow; 0 for all cores.

    Returns:
        the embedding network and the classifier.
    """
    if num_threads:
        tf.config.threading.set_intra_op_parallelism_threads(num_threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(recipe.seed)
    data = training_clips(clips, recipe, teachers)
    if len(data.frames) < recipe.batch_size:
        raise UsageError(f"{len(data.frames)} clips and noises to train on, expected at least {recipe.batch_size}")
    embedding = networks.embedding_network(FRONT_END)
    classifier = networks.classifier_network(embedding.output_shape[-1], len(LABELS))
    network = networks.joined(embedding, classifier, n_taught=data.lessons[0].shape[1])
    started = time.monotonic()
    losses = _fit(network, WindowDrawer(data, Augmentation(), recipe.seed), recipe, recipe.epochs, recipe.learning_rate)
    calm = WindowDrawer(data, CALM, recipe.seed + 1)
    losses += _fit(network, calm, recipe, recipe.calm_epochs, recipe.calm_learning_rate)
    out.mkdir(parents=True, exist_ok=True)
    embedding.save(out / f"{networks.EMBEDDING}.keras")
    classifier.save(out / f"{networks.CLASSIFIER}.keras")
    record = {
        "recipe": dataclasses.asdict(recipe),
        "augmentation": [dataclasses.asdict(Augmentation()), dataclasses.asdict(CALM)],
        "clips": len(clips),
        "recordings": len({clip.recording for clip in clips}),
        "folds": {
            dataset: sorted({clip.fold for clip in clips if clip.dataset == dataset})
            for dataset in sorted({clip.dataset for clip in clips})
        },
        "teachers": [teacher.identity for teacher in teachers],
        "parameters": embedding.count_params() + classifier.count_params(),
        "losses": losses,
        "duration_s": round(time.monotonic() - started),
    }
    (out / TRAINING_NAME).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return embedding, classifier


def _fit(network: keras.Model, drawer: WindowDrawer, recipe: Recipe, epochs: int, learning_rate: float) -> list[float]:
    """One cycle; afterwards the network has the averaged weights, and statistics that fit them.

    Returns:
        the mean loss of each epoch.
    """
    n_steps = epochs * (drawer.n_clips // recipe.batch_size)
    optimizer = keras.optimizers.AdamW(
        OneCycle(learning_rate, n_steps, recipe.warm_up),
        weight_decay=recipe.weight_decay,
        use_ema=True,
        ema_momentum=recipe.average_momentum,
        global_clipnorm=5.0,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    taught = len(network.outputs) > 1
    network.compile(
        optimizer,
        loss=["categorical_crossentropy", "mean_squared_error"][: 1 + taught],
        loss_weights=[1.0, recipe.lesson_weight][: 1 + taught],
    )
    losses: list[float] = []
    for epoch in range(epochs):
        losses.append(float(np.mean([_step(network, batch) for batch in drawer.epoch(recipe.batch_size)])))
        log.info("train.epoch epoch=%d of=%d loss=%.4f", epoch + 1, epochs, losses[-1])
    optimizer.finalize_variable_values(network.trainable_variables)
    settle_statistics(network, drawer, batch_size=min(64, drawer.n_clips))
    return losses


def _step(network: keras.Model, batch: Example) -> float:
    """Train on one batch; returns the loss."""
    if len(network.outputs) == 1:
        return float(network.train_on_batch(batch.window, batch.label))
    weights = [np.ones(len(batch.label), np.float32), batch.taught]
    return float(network.train_on_batch(batch.window, [batch.label, batch.lesson], sample_weight=weights)[0])


def settle_statistics(network: keras.Model, drawer: WindowDrawer, *, batch_size: int) -> None:
    """The averaged weights have other activations than those the batch statistics were gathered on: gather anew."""
    normalizations = [
        layer for layer in network._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)
    ]
    sums: list[tuple[FloatArray, FloatArray]] = []
    for layer in normalizations:
        layer.momentum = 0.0
    n_batches = 0
    for batch in drawer.epoch(batch_size):
        network(batch.window, training=True)
        now = [(layer.moving_mean.numpy(), layer.moving_variance.numpy()) for layer in normalizations]
        sums = [(a + c, b + d) for (a, b), (c, d) in zip(sums, now, strict=True)] if sums else now
        n_batches += 1
    for layer, (mean, variance) in zip(normalizations, sums, strict=True):
        layer.momentum = 0.99
        layer.moving_mean.assign(mean / n_batches)
        layer.moving_variance.assign(variance / n_batches)
