"""Full int8."""

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from model_export.clips import urbansound8k
from model_export.features import FRONT_END
from model_export.quantize import representative_windows


@pytest.mark.parametrize("name", ["embedding.tflite", "classifier.tflite"])
def test_a_network_is_int8_throughout(packaged: Path, name: str) -> None:
    """No tensor is float: an accelerator that knows only integers can take it whole."""
    interpreter = Interpreter(model_path=str(packaged / name))

    types = {tensor["dtype"] for tensor in interpreter.get_tensor_details()}

    assert types <= {np.int8, np.int32}
    assert interpreter.get_input_details()[0]["dtype"] is np.int8
    assert interpreter.get_output_details()[0]["dtype"] is np.int8


def test_the_first_filters_sum_to_0_in_int8_too(packaged: Path) -> None:
    """What was rounded does not hear the level either: weights that are one step off would let it through."""
    model = schema.ModelT.InitFromPackedBuf((packaged / "embedding.tflite").read_bytes())
    graph = model.subgraphs[0]
    weights = graph.tensors[graph.operators[0].inputs[1]]

    steps = np.frombuffer(model.buffers[weights.buffer].data.tobytes(), np.int8).reshape(weights.shape[0], -1)

    assert list(weights.shape[1:]) == [3, 3, 1]
    assert not steps.astype(int).sum(axis=1).any()
    assert np.abs(steps).max() == 127


def test_representative_windows_are_of_all_labels_and_repeatable(data_sets: tuple[Path, Path]) -> None:
    """Calibration sees every label, at the card's levels, the same each time."""
    clips = urbansound8k(data_sets[0])

    windows, again = (representative_windows(clips, seed=3) for _ in range(2))

    assert windows.shape == (24, FRONT_END.n_frames, FRONT_END.n_mels)
    assert windows.min() >= FRONT_END.level_min_db
    np.testing.assert_array_equal(windows, again)
