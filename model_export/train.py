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

from agent.errors import UsageError
from agent.values import FloatArray
from model_export import networks, noise
from model_export.augment import Augmentation, TrainingClips, WindowDrawer
from model_export.clips import BACKGROUND, LABELS, Clip, digest_of
from model_export.costs import OneCycle, cost_of
from model_export.ensemble import Ensemble, train_heads
from model_export.features import FRONT_END, sound_of
from model_export.loader import Loader
from model_export.published import PublishedNetwork
from model_export.teachers import Teachers
from model_export.trained import load_networks, losses_before, training_record, write_networks

log = logging.getLogger(__name__)

CALM = Augmentation(
    same_label_probability=0.0,
    mixup_probability=0.15,
    background_probability=0.3,
    overload_probability=0.0,
    telephone_probability=0.0,
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

    What is learnt is not the labels alone: `soft_share` of them is what an ensemble says. That is an MLP on each
    teacher's embedding, which has learnt the labels for `head_epochs`, and in `generations`, each from scratch, the
    network before.

    Source: AdamW, Loshchilov and Hutter, ICLR 2019; the rest where it stands (`costs`, `teachers`, `ensemble`).
    """

    epochs: int = 80
    calm_epochs: int = 8
    batch_size: int = 16
    learning_rate: float = 1.5e-3
    calm_learning_rate: float = 4e-4
    weight_decay: float = 0.05
    warm_up: float = 0.25
    average_momentum: float = 0.995
    noise_clips: int = 160
    noise_clip_s: float = 4.0
    map_weights: tuple[float, float, float] = (0.2, 0.7, 0.7)
    embedding_weight: float = 10.0
    likelihoods: networks.Likelihoods = "sigmoid"
    sigmoid_weight: float = 0.6
    generations: int = 1
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
    num_processes: int = 0,
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
        num_processes: that prepare batches beside the one that learns; what is learnt does not depend on it.

    Returns:
        the embedding network and the classifier.

    Raises:
        RecordingError: a clip cannot be read.
        UsageError: there are too few clips, or the folder cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)  # first of all: what is trained must have a place
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}; expected a folder to write to") from error
    if num_threads:  # before TensorFlow does anything
        networks.limit_threads(num_threads)
    asked = _asked(clips, recipe, teachers)
    all_losses = losses_before(out, asked)
    if len(all_losses) == recipe.generations:
        log.info("train.trained_before folder=%s", out.name)
        return load_networks(out)
    data = training_clips(clips, recipe)
    if len(data.sounds) < recipe.batch_size:
        raise UsageError(f"{len(data.sounds)} clips and noises to train on, expected at least {recipe.batch_size}")
    started = time.monotonic()
    school = _school(data, teachers, recipe)
    recipes = [  # of each generation
        dataclasses.replace(recipe, seed=recipe.seed + SEEDS_BETWEEN * number) for number in range(recipe.generations)
    ]
    phases = [(_drawer(data, one, Augmentation(), 0), _drawer(data, one, CALM, 1)) for one in recipes]
    for_heads = _drawer(data, recipe, Augmentation(), 3)
    with Loader([for_heads, *itertools.chain(*phases)], school, num_processes) as loader:
        heads = _heads(loader, for_heads, recipe)
        duration_s = 0.0
        if all_losses:
            log.info("train.going_on folder=%s generations=%d of=%d", out.name, len(all_losses), recipe.generations)
            embedding, classifier = load_networks(out)
            duration_s = training_record(out)["duration_s"]
        for number in range(len(all_losses), recipe.generations):
            former = keras.Model(embedding.input, classifier(embedding.output)) if number else None
            ensemble = Ensemble(former, heads, recipe.soft_share)
            embedding, classifier, losses = _generation(loader, phases[number], recipes[number], ensemble)
            all_losses.append(losses)
            record = asked | {
                "parameters": embedding.count_params() + classifier.count_params(),
                "losses": all_losses,
                "backend": keras.backend.backend(),
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
        "clips_sha256": digest_of(clips),
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
    loader: Loader, drawers: tuple[WindowDrawer, WindowDrawer], recipe: Recipe, ensemble: Ensemble
) -> tuple[keras.Model, keras.Model, list[float]]:
    """One network from scratch: the embedding network, the classifier, and the mean loss of each epoch."""
    keras.utils.set_random_seed(recipe.seed)  # the same, whether what comes before was trained now or read
    embedding = networks.embedding_network(FRONT_END)
    classifier = networks.classifier_network(embedding.output_shape[-1], len(LABELS), likelihoods=recipe.likelihoods)
    lessons = [(lesson.layer, lesson.n_values) for lesson in loader.school.lessons]
    network = networks.taught(embedding, classifier, lessons)
    lively, calm = drawers
    losses = _fit(network, loader, lively, recipe, (recipe.epochs, recipe.learning_rate), ensemble=ensemble)
    calm_phase = (recipe.calm_epochs, recipe.calm_learning_rate)
    losses += _fit(network, loader, calm, recipe, calm_phase, ensemble=ensemble)
    return embedding, classifier, losses


def _heads(loader: Loader, drawer: WindowDrawer, recipe: Recipe) -> list[keras.Model]:
    """For each teacher, what tells the labels by its embedding."""
    keras.utils.set_random_seed(recipe.seed + 3)
    return train_heads(
        loader,
        drawer,
        n_labels=len(LABELS),
        likelihoods=recipe.likelihoods,
        epochs=recipe.head_epochs,
        batch_size=recipe.batch_size,
    )


def _fit(
    network: keras.Model,
    loader: Loader,
    drawer: WindowDrawer,
    recipe: Recipe,
    phase: tuple[int, float],
    *,
    ensemble: Ensemble,
) -> list[float]:
    """One cycle; afterwards the network has the averaged weights, and statistics that fit them.

    Args:
        network: as `networks.taught` gives it.
        loader: prepares the batches, with what the outputs are to be, the labels apart.
        drawer: draws the windows.
        recipe: how.
        phase: epochs, and the highest learning rate.
        ensemble: softens the labels.

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
    optimizer.build(network.trainable_variables)  # or TensorFlow makes the graph of a step twice, for some ten seconds
    lessons = loader.school.lessons
    label_weight = recipe.sigmoid_weight if recipe.likelihoods == "sigmoid" else 1.0
    network.compile(
        optimizer,
        loss=[cost_of(recipe.likelihoods), *("mean_squared_error" for _ in lessons)],
        loss_weights=[label_weight, *(lesson.weight for lesson in lessons)],
    )
    losses: list[float] = []
    for epoch in range(epochs):
        steps = []
        for batch, said in loader.epoch(drawer, recipe.batch_size):
            label = ensemble.soften(batch, loader.school.embeddings(said))
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
    sums: list[list[FloatArray]] = []
    for layer in normalizations:
        layer.momentum = 0.0
    n_batches = 0
    for batch in drawer.epoch(batch_size):
        network(batch.window, training=True)
        now = [layer.get_weights()[-2:] for layer in normalizations]  # mean and variance
        sums = [[a + c, b + d] for (a, b), (c, d) in zip(sums, now, strict=True)] if sums else now
        n_batches += 1
    for layer, (mean, variance) in zip(normalizations, sums, strict=True):
        layer.momentum = 0.99
        layer.moving_mean.assign(mean / n_batches)
        layer.moving_variance.assign(variance / n_batches)
