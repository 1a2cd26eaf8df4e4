"""Train the L3 audio network and its MLP together, from scratch, on labelled clips; published networks may teach.

In: labelled clips; teachers. Out: both networks, in a folder with the recipe and how it went (`trained`). The number of
epochs is fixed in advance; nothing is chosen by looking at a validation set.
"""

import dataclasses
import itertools
import logging
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
from model_export.costs import OneCycle, cost_of
from model_export.ensemble import Ensemble, train_heads
from model_export.features import FRONT_END, sound_of
from model_export.published import PublishedNetwork
from model_export.teachers import Teachers
from model_export.trained import load_networks, losses_before, training_record, write_networks

log = logging.getLogger(__name__)

CALM = Augmentation(
    same_label_probability=0.0,
    mixup_probability=0.15,
    background_probability=0.3,
    style_probability=0.0,
    room_probability=0.0,
    overload_probability=0.0,
    telephone_probability=0.0,
    masks=1,
)
SETTLING_BATCHES = 80  # of windows, for the units of the lessons
SEEDS_BETWEEN = 10  # generations: a generation takes a few


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the network is trained. AdamW under a one-cycle schedule; the weights are averaged over the steps.

    Two phases: with all that `Augmentation` does, then a short calm one with little mixing, at a lower rate. The labels
    cost their cross-entropy: that of a `softmax`, or `sigmoid_weight` times that of each label on its own. With
    teachers, layers that are thrown away afterwards predict what is inside them, from what is inside ours; beside the
    labels counts the mean squared error of their maps, `map_weights` times (one weight for each of our layers that is
    taught), and of their embedding, `embedding_weight` times.

    All this happens in `generations`, each from scratch. What is learnt by the later ones is not the labels alone:
    `soft_share` of them is what the generation before, and MLPs on the teachers' embeddings (`head_epochs`), say.

    Source: AdamW, Loshchilov and Hutter, ICLR 2019; the rest where it stands (`costs`, `teachers`, `ensemble`).
    """

    epochs: int = 48
    calm_epochs: int = 6
    batch_size: int = 16
    learning_rate: float = 1.5e-3
    calm_learning_rate: float = 4e-4
    weight_decay: float = 0.05
    warm_up: float = 0.25
    average_momentum: float = 0.995
    noise_clips: int = 160
    noise_clip_s: float = 4.0
    map_weights: tuple[float, float, float] = (0.2, 0.7, 0.7)
    embedding_weight: float = 3.0
    likelihoods: networks.Likelihoods = "sigmoid"
    sigmoid_weight: float = 0.6
    generations: int = 2
    head_epochs: int = 12
    soft_share: float = 0.7
    seed: int = 1


def training_clips(clips: Sequence[Clip], recipe: Recipe) -> TrainingClips:
    """Labelled clips and synthetic background noise, in this order."""
    rate_hz, background = FRONT_END.sample_rate_hz, LABELS.index(BACKGROUND)
    rng = np.random.default_rng(recipe.seed)
    n_samples = round(recipe.noise_clip_s * rate_hz)
    noises = [noise.background(n_samples, rate_hz, rng) for _ in range(recipe.noise_clips)]
    targets = [LABELS.index(clip.label) for clip in clips]
    targets += [background] * len(noises)
    recordings = [*(clip.recording for clip in clips), *(f"noise {number}" for number in range(len(noises)))]
    sounds = [*map(sound_of, clips), *noises]
    return TrainingClips(sounds, np.asarray(targets, np.int64), recordings, len(LABELS), background)


def train(
    clips: Sequence[Clip],
    recipe: Recipe,
    out: Path,
    *,
    teachers: Sequence[PublishedNetwork] = (),
    num_threads: int = 0,
) -> tuple[keras.Model, keras.Model]:
    """Train on all the clips given.

    Each generation is written down as it ends. What stands in `out` from a run of the same recipe on the same clips is
    gone on from, and is all there is to do where it was finished: a run may be cut short and begun again.

    Args:
        clips: the training clips.
        recipe: how.
        out: folder for the networks and the record of the run.
        teachers: published networks to learn from besides the labels.
        num_threads: for TensorFlow; 0 for all cores.

    Returns:
        the embedding network and the classifier.
    """
    if num_threads:  # before TensorFlow does anything
        tf.config.threading.set_intra_op_parallelism_threads(num_threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    asked = _asked(clips, recipe, teachers)
    all_losses = losses_before(out, asked)
    duration_s = 0.0
    if all_losses:
        log.info("train.trained_before folder=%s generations=%d of=%d", out.name, len(all_losses), recipe.generations)
        embedding, classifier = load_networks(out)
        if len(all_losses) == recipe.generations:
            return embedding, classifier
        duration_s = training_record(out)["duration_s"]
    data = training_clips(clips, recipe)
    if len(data.sounds) < recipe.batch_size:
        raise UsageError(f"{len(data.sounds)} clips and noises to train on, expected at least {recipe.batch_size}")
    started = time.monotonic()
    school = _school(data, teachers, recipe)
    heads = _heads(data, school, recipe) if recipe.generations > 1 else []
    for number in range(len(all_losses), recipe.generations):
        ensemble = None
        if number > 0:
            ensemble = Ensemble(keras.Model(embedding.input, classifier(embedding.output)), heads, recipe.soft_share)
        of_its_own = dataclasses.replace(recipe, seed=recipe.seed + SEEDS_BETWEEN * number)
        embedding, classifier, losses = _generation(data, school, of_its_own, ensemble)
        all_losses.append(losses)
        record = asked | {
            "parameters": embedding.count_params() + classifier.count_params(),
            "losses": all_losses,
            "duration_s": round(duration_s + time.monotonic() - started),
        }
        write_networks((embedding, classifier), record, out)
    return embedding, classifier


def is_trained(out: Path, clips: Sequence[Clip], recipe: Recipe, teachers: Sequence[PublishedNetwork] = ()) -> bool:
    """Whether all generations of a recipe stand in a folder, trained on these clips."""
    return len(losses_before(out, _asked(clips, recipe, teachers))) == recipe.generations


def _asked(clips: Sequence[Clip], recipe: Recipe, teachers: Sequence[PublishedNetwork]) -> dict[str, object]:
    """What two runs must have in common for one to go on with what the other has trained."""
    return {
        "recipe": dataclasses.asdict(recipe),
        "augmentation": [dataclasses.asdict(Augmentation()), dataclasses.asdict(CALM)],
        "clips": len(clips),
        "recordings": len({clip.recording for clip in clips}),
        "folds": {
            dataset: sorted({clip.fold for clip in clips if clip.dataset == dataset})
            for dataset in sorted({clip.dataset for clip in clips})
        },
        "teachers": [teacher.identity for teacher in teachers],
    }


def _school(data: TrainingClips, teachers: Sequence[PublishedNetwork], recipe: Recipe) -> Teachers:
    """The teachers, the units of what they say settled."""
    school = Teachers(teachers, map_weights=recipe.map_weights, embedding_weight=recipe.embedding_weight)
    if teachers:
        heard = _drawer(data, recipe, Augmentation(), 2).epoch(recipe.batch_size)
        school.settle(np.concatenate([batch.sound for batch in itertools.islice(heard, SETTLING_BATCHES)]))
    return school


def _drawer(data: TrainingClips, recipe: Recipe, augmentation: Augmentation, number: int) -> WindowDrawer:
    """Draws windows for one purpose; each purpose has a number, and a seed, of its own."""
    return WindowDrawer(data, augmentation, recipe.seed + number, likelihoods=recipe.likelihoods)


def _generation(
    data: TrainingClips, school: Teachers, recipe: Recipe, ensemble: Ensemble | None = None
) -> tuple[keras.Model, keras.Model, list[float]]:
    """One network from scratch: the embedding network, the classifier, and the mean loss of each epoch."""
    keras.utils.set_random_seed(recipe.seed)  # the same, whether what comes before was trained now or read
    embedding = networks.embedding_network(FRONT_END)
    classifier = networks.classifier_network(embedding.output_shape[-1], len(LABELS), likelihoods=recipe.likelihoods)
    network = networks.taught(embedding, classifier, [(lesson.layer, lesson.n_values) for lesson in school.lessons])
    lively, calm = _drawer(data, recipe, Augmentation(), 0), _drawer(data, recipe, CALM, 1)
    losses = _fit(network, school, lively, recipe, (recipe.epochs, recipe.learning_rate), ensemble=ensemble)
    calm_phase = (recipe.calm_epochs, recipe.calm_learning_rate)
    losses += _fit(network, school, calm, recipe, calm_phase, ensemble=ensemble)
    return embedding, classifier, losses


def _heads(data: TrainingClips, school: Teachers, recipe: Recipe) -> list[keras.Model]:
    """For each teacher, what tells the labels by its embedding."""
    keras.utils.set_random_seed(recipe.seed + 3)
    return train_heads(
        school,
        _drawer(data, recipe, Augmentation(), 3),
        n_labels=len(LABELS),
        likelihoods=recipe.likelihoods,
        epochs=recipe.head_epochs,
        batch_size=recipe.batch_size,
    )


def _fit(
    network: keras.Model,
    school: Teachers,
    drawer: WindowDrawer,
    recipe: Recipe,
    phase: tuple[int, float],
    *,
    ensemble: Ensemble | None,
) -> list[float]:
    """One cycle; afterwards the network has the averaged weights, and statistics that fit them.

    Args:
        network: as `networks.taught` gives it.
        school: says what its outputs are to be, the labels apart.
        drawer: draws the windows.
        recipe: how.
        phase: epochs, and the highest learning rate.
        ensemble: softens the labels; none in the first generation.

    Returns:
        the mean loss of each epoch.
    """
    epochs, learning_rate = phase
    n_steps = epochs * (drawer.n_clips // recipe.batch_size)
    optimizer = keras.optimizers.AdamW(
        OneCycle(learning_rate, n_steps, recipe.warm_up),
        weight_decay=recipe.weight_decay,
        use_ema=True,
        ema_momentum=recipe.average_momentum,
        global_clipnorm=5.0,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    label_weight = recipe.sigmoid_weight if recipe.likelihoods == "sigmoid" else 1.0
    network.compile(
        optimizer,
        loss=[cost_of(recipe.likelihoods), *("mean_squared_error" for _ in school.lessons)],
        loss_weights=[label_weight, *(lesson.weight for lesson in school.lessons)],
    )
    losses: list[float] = []
    for epoch in range(epochs):
        steps = []
        for batch in drawer.epoch(recipe.batch_size):
            said = school.say(batch.sound)
            label = batch.label if ensemble is None else ensemble.soften(batch, school.embeddings(said))
            steps.append(network.train_on_batch(batch.window, [label, *said], return_dict=True)["loss"])
        losses.append(float(np.mean(steps)))
        log.info("train.epoch epoch=%d of=%d loss=%.4f", epoch + 1, epochs, losses[-1])
    optimizer.finalize_variable_values(network.trainable_variables)
    for layer in network._flatten_layers():
        if getattr(layer, "kernel_constraint", None):  # the average still holds what was before the first step
            layer.kernel.assign(layer.kernel_constraint(layer.kernel))
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
    for batch in drawer.epoch(batch_size):
        network(batch.window, training=True)
        now = [(layer.moving_mean.numpy(), layer.moving_variance.numpy()) for layer in normalizations]
        sums = [(a + c, b + d) for (a, b), (c, d) in zip(sums, now, strict=True)] if sums else now
        n_batches += 1
    for layer, (mean, variance) in zip(normalizations, sums, strict=True):
        layer.momentum = 0.99
        layer.moving_mean.assign(mean / n_batches)
        layer.moving_variance.assign(variance / n_batches)
