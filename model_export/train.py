"""Train the L3 audio network and its MLP together, from scratch, on labelled clips.

In: clips. Out: a folder with `embedding.keras`, `classifier.keras` and `training.json` (the recipe and how it went).
The number of epochs is fixed in advance; nothing is chosen by looking at a validation set.
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
from model_export.augment import Augmentation, TrainingClips, WindowDrawer
from model_export.clips import BACKGROUND, LABELS, Clip
from model_export.features import FRONT_END, frames_of, frames_of_clips

log = logging.getLogger(__name__)

TRAINING_NAME = "training.json"
CALM = Augmentation(mixup_probability=0.15, background_probability=0.3, masks=1)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the network is trained. AdamW under a one-cycle schedule; the weights are averaged over the steps.

    Two phases: with all that `Augmentation` does, then a short calm one with little mixing, at a lower rate.

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


def with_noise(frames: list[FloatArray], targets: list[int], recipe: Recipe) -> TrainingClips:
    """Add synthetic background noise to the clips."""
    rng = np.random.default_rng(recipe.seed)
    n_samples = round(recipe.noise_clip_s * FRONT_END.sample_rate_hz)
    background = LABELS.index(BACKGROUND)
    for _ in range(recipe.noise_clips):
        frames.append(frames_of(noise.background(n_samples, FRONT_END.sample_rate_hz, rng), FRONT_END.sample_rate_hz))
        targets.append(background)
    return TrainingClips(frames, np.asarray(targets, np.int64), len(LABELS), background)


def train(clips: Sequence[Clip], recipe: Recipe, out: Path, *, num_threads: int = 0) -> tuple[keras.Model, keras.Model]:
    """Train on all the clips given.

    Args:
        clips: the training clips.
        recipe: how.
        out: folder for the networks and the record of the run.
        num_threads: for TensorFlow; 0 for all cores.

    Returns:
        the embedding network and the classifier.
    """
    if num_threads:
        tf.config.threading.set_intra_op_parallelism_threads(num_threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(recipe.seed)
    data = with_noise(frames_of_clips(clips), [LABELS.index(clip.label) for clip in clips], recipe)
    if len(data.frames) < recipe.batch_size:
        raise UsageError(f"{len(data.frames)} clips and noises to train on, expected at least {recipe.batch_size}")
    embedding = networks.embedding_network(FRONT_END)
    classifier = networks.classifier_network(embedding.output_shape[-1], len(LABELS))
    network = networks.joined(embedding, classifier)
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
        "parameters": network.count_params(),
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
    network.compile(optimizer, loss="categorical_crossentropy")
    losses: list[float] = []
    for epoch in range(epochs):
        losses.append(float(np.mean([network.train_on_batch(*batch) for batch in drawer.epoch(recipe.batch_size)])))
        log.info("train.epoch epoch=%d of=%d loss=%.4f", epoch + 1, epochs, losses[-1])
    optimizer.finalize_variable_values(network.trainable_variables)
    settle_statistics(network, drawer, batch_size=min(64, drawer.n_clips))
    return losses


def settle_statistics(network: keras.Model, drawer: WindowDrawer, *, batch_size: int) -> None:
    """The averaged weights have other activations than those the batch statistics were gathered on: gather anew."""
    normalizations = [
        layer for layer in network._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)
    ]
    sums: list[tuple[FloatArray, FloatArray]] = []
    for layer in normalizations:
        layer.momentum = 0.0
    n_batches = 0
    for windows, _ in drawer.epoch(batch_size):
        network(windows, training=True)
        now = [(layer.moving_mean.numpy(), layer.moving_variance.numpy()) for layer in normalizations]
        sums = [(a + c, b + d) for (a, b), (c, d) in zip(sums, now, strict=True)] if sums else now
        n_batches += 1
    for layer, (mean, variance) in zip(normalizations, sums, strict=True):
        layer.momentum = 0.99
        layer.moving_mean.assign(mean / n_batches)
        layer.moving_variance.assign(variance / n_batches)
