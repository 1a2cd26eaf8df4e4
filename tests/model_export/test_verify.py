"""One promise, every form."""

from pathlib import Path

import numpy as np
import pytest

from agent.errors import ModelError
from agent.model_card import load_model_folder
from model_export import networks
from model_export.clips import LABELS, urbansound8k
from model_export.features import FRONT_END
from model_export.quantize import representative_windows
from model_export.trained import load_networks
from model_export.verify import check_model


def test_keras_tflite_and_agent_agree(data_sets: tuple[Path, Path], trained: Path, packaged: Path) -> None:
    """The trained, the quantized and the agent's own network give the same likelihoods for the same windows."""
    windows = representative_windows(urbansound8k(data_sets[0]), seed=1)

    agreement = check_model(*load_networks(trained), load_model_folder(packaged), windows)

    assert agreement.n_windows == 24
    assert agreement.max_step == 0.0  # the agent rounds as TFLite does


def test_another_network_is_noticed(trained: Path, packaged: Path) -> None:
    """A folder that was made from other weights does not pass."""
    stranger = networks.classifier_network(networks.FILTERS[-1], len(LABELS), likelihoods="sigmoid")
    rng = np.random.default_rng(0)
    windows = rng.uniform(-80, -20, (8, FRONT_END.n_frames, FRONT_END.n_mels)).astype(np.float32)

    with pytest.raises(ModelError, match="int8"):
        check_model(load_networks(trained)[0], stranger, load_model_folder(packaged), windows)
