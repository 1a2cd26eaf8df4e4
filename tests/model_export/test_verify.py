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
from model_export.verify import check_int8, check_model


def test_keras_tflite_and_agent_agree(data_sets: tuple[Path, Path], trained: Path, packaged: Path) -> None:
    """The trained, the quantized and the agent's own network give the same likelihoods for the same windows."""
    windows = representative_windows(urbansound8k(data_sets[0]), seed=1)

    agreement = check_model(*load_networks(trained), load_model_folder(packaged), windows)

    assert agreement.n_windows == 24
    assert agreement.max_step == 0.0  # the agent rounds as TFLite does


def test_only_where_float_is_decided_the_label_has_to_be_the_same() -> None:
    """One label leads the other by 0.3 and more in two of three windows; the third may go either way."""
    trained = np.array([[0.9, 0.1], [0.35, 0.75], [0.52, 0.48]], np.float32)
    int8 = np.array([[0.9, 0.1], [0.35, 0.75], [0.48, 0.52]], np.float32)

    agreement = check_int8(Path("model"), trained, int8)

    assert (agreement.n_windows, agreement.n_decided, agreement.same_label) == (3, 2, 1.0)
    assert agreement.mean_difference == pytest.approx(0.08 / 6, abs=1e-6)
    with pytest.raises(ModelError, match=r"int8 names the label of float in 50\.0% of 2 decided windows"):
        check_int8(Path("model"), trained, int8[[0, 0, 2]])
    with pytest.raises(ModelError, match=r"int8 likelihoods differ from float by 0\.04\d* in the mean"):
        check_int8(Path("model"), trained, trained + np.float32(0.04))


def test_another_network_is_noticed(trained: Path, packaged: Path) -> None:
    """A folder that was made from other weights does not pass."""
    stranger = networks.classifier_network(networks.FILTERS[-1], len(LABELS), likelihoods="sigmoid")
    rng = np.random.default_rng(0)
    windows = rng.uniform(-80, -20, (8, FRONT_END.n_frames, FRONT_END.n_mels)).astype(np.float32)

    with pytest.raises(ModelError, match="int8"):
        check_model(load_networks(trained)[0], stranger, load_model_folder(packaged), windows)
