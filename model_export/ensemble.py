"""Soft labels: what several networks that have learnt from the same clips say of a window, for the next one to learn.

In: batches of windows. Out: their labels, drawn towards the mean of what an ensemble says: the network of the
generation before, if there was one, and an MLP on each teacher's embedding. Each alone has learnt much by heart. Where
they do not agree, a label is less certain than it looks, and what else the window is like is worth knowing.

Source: Hinton et al., "Distilling the knowledge in a neural network", 2015; Furlanello et al., "Born-again neural
networks", ICML 2018.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from agent.values import FloatArray
from model_export import networks
from model_export.augment import Example, WindowDrawer
from model_export.costs import OneCycle, cost_of
from model_export.loader import Loader

log = logging.getLogger(__name__)

WEIGHT_DECAY, WARM_UP = 0.05, 0.25  # those that the recipe has for the network
PEAK_RATE = 1e-3


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Networks that know the labels.

    Attributes:
        former: window to likelihoods, the generation before; none in the first.
        heads: for each teacher, embedding to likelihoods.
        share: in [0, 1], how far labels are drawn towards what these say.
    """

    former: keras.Model | None
    heads: Sequence[keras.Model]
    share: float

    def soften(self, batch: Example, embeddings: Sequence[FloatArray]) -> FloatArray:
        """The labels to learn; those of the batch, if there is nobody to ask.

        Args:
            batch: windows, float32 (batch, n_frames, n_mels, 1), and their labels.
            embeddings: for each teacher float32 (batch, d), what it makes of the sounds.

        Returns:
            float32 (batch, n_labels), in [0, 1].
        """
        said = [self.former.predict_on_batch(batch.window)] if self.former else []
        said += [head.predict_on_batch(one) for head, one in zip(self.heads, embeddings, strict=True)]
        if not said:
            return batch.label
        share = np.float32(self.share)
        softened: FloatArray = (1 - share) * batch.label + share * np.mean(said, axis=0)
        return softened


def train_heads(
    loader: Loader,
    drawer: WindowDrawer,
    *,
    n_labels: int,
    likelihoods: networks.Likelihoods,
    epochs: int,
    batch_size: int,
) -> list[keras.Model]:
    """For each teacher, the MLP that tells the labels by its embedding, on the same changed sounds as our network.

    Args:
        loader: prepares the batches, and has the teachers.
        drawer: draws the windows and their sounds.
        n_labels: how many labels there are.
        likelihoods: as our network gives them.
        epochs: how often each clip is drawn.
        batch_size: windows at once.
    """
    heads = [networks.classifier_network(n, n_labels, likelihoods=likelihoods) for n in loader.school.embedding_values]
    if not heads:
        return []
    n_steps = epochs * (drawer.n_clips // batch_size)
    for head in heads:
        head.compile(
            keras.optimizers.AdamW(
                OneCycle(PEAK_RATE, n_steps, WARM_UP), weight_decay=WEIGHT_DECAY, global_clipnorm=5.0
            ),
            loss=cost_of(likelihoods),
        )
    for epoch in range(epochs):
        losses = [
            head.train_on_batch(embedding, batch.label)
            for batch, said in loader.epoch(drawer, batch_size)
            for head, embedding in zip(heads, loader.school.embeddings(said), strict=True)
        ]
        log.info("ensemble.epoch epoch=%d of=%d loss=%.4f", epoch + 1, epochs, np.mean(losses))
    return heads
