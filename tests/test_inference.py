"""Promises of `agent.inference`: the networks are what the card says, and nobody rounds but their owner."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import flatbuffers  # comes with ai-edge-litert
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as tflite
from ai_edge_litert.interpreter import Interpreter

from agent import model_card
from agent.errors import ModelError
from agent.frontend import FrontEnd
from agent.inference import (
    CHUNKS_AT_ONCE,
    Classifier,
    Embedder,
    _same_steps,
    dequantize,
    quantize,
)
from agent.litert import Device
from agent.model_card import ModelFolder, TensorCard, load_model_folder
from agent.values import AudioBlock, FloatArray, Window
from tests.conftest import REPOSITORY

YAMNET = REPOSITORY.parent / "shared" / "models" / "yamnet.tflite"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the model that comes with the agent, to be broken."""
    return Path(shutil.copytree(model_card.DEFAULT_MODEL, tmp_path / "model"))


@pytest.fixture(scope="module")
def windows(model: ModelFolder) -> list[Window]:
    """Windows of noise with a spectrum and a level of their own, as the shipped model expects them."""
    rng = np.random.default_rng(5)
    numbers = model.card.front_end
    shape = (numbers.n_frames, numbers.n_mels)
    return [
        Window(
            (rng.uniform(-90, -20) + rng.normal(0, 8, shape[1]) + rng.normal(0, 5, shape))
            .clip(-100, 0)
            .astype(np.float32),
            first_sample=index * 1600,
            n_samples=16_000,
        )
        for index in range(20)
    ]


def edit_card(folder: Path, change: Callable[[dict[str, Any]], object]) -> ModelFolder:
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    change(card)
    (folder / "model.json").write_text(json.dumps(card), encoding="utf-8")
    return load_model_folder(folder)


def put(folder: Path, network: str, content: bytes) -> ModelFolder:
    """Replace a network's file, and the hash in the card with it."""
    file = getattr(load_model_folder(folder), f"{network}_file")
    file.write_bytes(content)
    return edit_card(folder, lambda card: card[network].update(sha256=hashlib.sha256(content).hexdigest()))


def problem_with(model: ModelFolder) -> str:
    with pytest.raises(ModelError) as caught:
        Classifier(model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def network_of(shapes: Sequence[tuple[int, ...]], *, is_float: bool) -> bytes:
    """A `.tflite` file with one input and one output, and a network of one sigmoid between them."""

    def tensor(name: str, shape: tuple[int, ...]) -> tflite.TensorT:
        made = tflite.TensorT()
        made.name, made.shape, made.buffer = name, list(shape), 0
        made.type = tflite.TensorType.FLOAT32 if is_float else tflite.TensorType.INT8
        return made

    operator = tflite.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0], [1]
    graph = tflite.SubGraphT()
    graph.tensors = [tensor("input", shapes[0]), tensor("output", shapes[1])]
    graph.inputs, graph.outputs, graph.operators = [0], [1], [operator]
    code = tflite.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = tflite.BuiltinOperator.LOGISTIC
    made = tflite.ModelT()
    made.version, made.operatorCodes, made.subgraphs, made.buffers = 3, [code], [graph], [tflite.BufferT()]
    builder = flatbuffers.Builder(0)
    builder.Finish(made.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_a_window_becomes_one_likelihood_for_each_class(model: ModelFolder, windows: list[Window]) -> None:
    """Each likelihood lies between 0 and 1; time and embedding come with them."""
    prediction = Classifier(model).predict(windows[3])

    assert (prediction.first_sample, prediction.n_samples) == (windows[3].first_sample, windows[3].n_samples)
    assert prediction.likelihoods.shape == (len(model.card.labels),)
    assert prediction.embedding.shape == model.card.embedding.output.shape[1:]
    assert prediction.likelihoods.dtype == prediction.embedding.dtype == np.dtype(np.float32)
    assert 0.0 <= prediction.likelihoods.min() <= prediction.likelihoods.max() <= 1.0


def test_the_agent_says_what_the_files_say(model: ModelFolder, windows: list[Window]) -> None:
    """The likelihoods are, to the last bit, those of the two files run by hand."""

    def run(file: Path, steps: np.ndarray[Any, np.dtype[np.int8]]) -> np.ndarray[Any, np.dtype[np.int8]]:
        interpreter = Interpreter(model_path=str(file))
        interpreter.allocate_tensors()
        (into,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.set_tensor(into["index"], steps.reshape(into["shape"]))
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(out["index"]))

    first, second = model.card.embedding, model.require_classifier()
    classifier = Classifier(model)
    for window in windows:
        steps = np.clip(np.rint(window.log_mel / np.float32(first.input.scale)) + first.input.zero_point, -128, 127)
        embedding = (
            run(model.embedding_file, steps.astype(np.int8)) - float(first.output.zero_point)
        ) * first.output.scale
        steps = np.clip(np.rint(embedding / second.input.scale) + second.input.zero_point, -128, 127)
        answer = (
            run(model.classifier_file, steps.astype(np.int8)) - float(second.output.zero_point)
        ) * second.output.scale

        prediction = classifier.predict(window)

        np.testing.assert_allclose(prediction.embedding, embedding[0], rtol=1e-6)
        np.testing.assert_allclose(prediction.likelihoods, answer[0], rtol=1e-6)


def test_a_window_is_judged_the_same_whatever_came_before(model: ModelFolder, windows: list[Window]) -> None:
    """The same window gives the same likelihoods, in any order, in another agent, with more threads."""
    forwards = [Classifier(model).predict(window) for window in windows]
    classifier = Classifier(model, num_threads=2)
    backwards = [classifier.predict(window) for window in reversed(windows)]

    for one, other in zip(forwards, reversed(backwards), strict=True):
        assert one.likelihoods.tobytes() == other.likelihoods.tobytes()
        assert one.embedding.tobytes() == other.embedding.tobytes()
    assert len({prediction.likelihoods.tobytes() for prediction in forwards}) > 1


def test_what_is_louder_than_the_networks_range_is_taken_as_its_loudest(
    model: ModelFolder, windows: list[Window]
) -> None:
    """A level beyond the range of the input does not wrap round to the other end."""
    classifier = Classifier(model)
    card = model.card.embedding.input
    loudest = np.full_like(windows[0].log_mel, (127 - card.zero_point) * card.scale)

    beyond = classifier.predict(replace(windows[0], log_mel=loudest + 50.0))

    assert (
        beyond.likelihoods.tobytes() == classifier.predict(replace(windows[0], log_mel=loudest)).likelihoods.tobytes()
    )


def test_a_prediction_is_the_receivers_to_keep(model: ModelFolder, windows: list[Window]) -> None:
    """The next window does not change what an earlier one gave, and nobody can write into it."""
    classifier = Classifier(model)
    first = classifier.predict(windows[0])
    kept = first.likelihoods.copy(), first.embedding.copy()

    for window in windows:
        classifier.predict(window)

    np.testing.assert_array_equal(first.likelihoods, kept[0])
    np.testing.assert_array_equal(first.embedding, kept[1])
    for values in (first.likelihoods, first.embedding):
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 0.5


def stream_of(model: ModelFolder, *, chunks_per_hop: int, seed: int, n_samples: int = 50_000) -> list[Window]:
    """Some noise that changes, as the front end gives it, twice: a gap lies between."""
    rng = np.random.default_rng(seed)
    assert model.card.streaming is not None
    front_end = FrontEnd(
        model.card.front_end,
        capture_rate_hz=16_000,
        window_hop_s=chunks_per_hop * model.card.streaming.chunk_frames / 80,
    )
    windows = []
    for _ in range(2):
        levels = np.interp(np.arange(n_samples), np.linspace(0, n_samples, 11), rng.random(11))
        sound = rng.normal(0, 0.1, n_samples) * levels
        windows += [*front_end.push(AudioBlock(sound.astype(np.float32), 0)), *front_end.flush()]
        front_end.reset()
    return windows


@pytest.mark.parametrize("chunks_per_hop", [1, 2, 5])
def test_streaming_gives_the_same_to_the_last_bit(model: ModelFolder, chunks_per_hop: int) -> None:
    """Each frame is heard once, yet every window has the embedding and the likelihoods it has alone; a gap is one."""
    windows = stream_of(model, chunks_per_hop=chunks_per_hop, seed=1)
    windowed, streaming = Classifier(model), Classifier(model, streaming=True)

    embeddings = [windowed.predict(window).embedding for window in windows]

    assert len({embedding.tobytes() for embedding in embeddings}) == len(windows)
    for window, embedding in zip(windows, embeddings, strict=True):
        assert streaming.predict(window).embedding.tobytes() == embedding.tobytes()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("at_once", [2, 7, 10, 23, 1000])
def test_windows_may_come_many_at_once(model: ModelFolder, streaming: bool, at_once: int) -> None:
    """However many are judged in one call, over a gap too: each prediction is the same to the last bit."""
    windows = stream_of(model, chunks_per_hop=1, seed=3, n_samples=130_000)
    one_by_one, classifier = (Classifier(model, streaming=streaming) for _ in range(2))

    predictions = [
        prediction
        for start in range(0, len(windows), at_once)
        for prediction in classifier.predict_all(windows[start : start + at_once])
    ]

    assert len(windows) > 2 * max(CHUNKS_AT_ONCE)
    for window, prediction in zip(windows, predictions, strict=True):
        alone = one_by_one.predict(window)
        assert prediction.likelihoods.tobytes() == alone.likelihoods.tobytes()
        assert prediction.embedding.tobytes() == alone.embedding.tobytes()
        assert (prediction.first_sample, prediction.n_samples) == (window.first_sample, window.n_samples)


@pytest.mark.parametrize("at_once", [1, 1000])
def test_the_hop_may_change_in_a_stream(model: ModelFolder, at_once: int) -> None:
    """Windows that lie two, four or one hop apart have the embeddings that they have alone, in the same call too."""
    windows = stream_of(model, chunks_per_hop=1, seed=6)[:21]
    kept = [0, 1, 2, 4, 6, 10, 14, 15, 16, 20]
    thinned = [
        replace(windows[number], n_new_frames=8 * (number - before) if number else None)
        for before, number in zip([0, *kept], kept, strict=False)
    ]
    windowed, streaming = Classifier(model), Classifier(model, streaming=True)

    predictions = [
        prediction
        for start in range(0, len(thinned), at_once)
        for prediction in streaming.predict_all(thinned[start : start + at_once])
    ]

    for window, prediction in zip(thinned, predictions, strict=True):
        assert prediction.embedding.tobytes() == windowed.predict(window).embedding.tobytes()


def test_streams_of_one_window_may_come_at_once(model: ModelFolder) -> None:
    """Each knows nothing of the one before it, however many are judged in one call."""
    windows = [replace(window, n_new_frames=None) for window in stream_of(model, chunks_per_hop=1, seed=3)[:3]]
    windowed = Classifier(model)

    predictions = Classifier(model, streaming=True).predict_all(windows)

    for window, prediction in zip(windows, predictions, strict=True):
        assert prediction.embedding.tobytes() == windowed.predict(window).embedding.tobytes()


@pytest.mark.parametrize(("streaming", "cpu_streaming"), [(True, None), (True, False), (False, True)])
def test_when_an_accelerator_goes_no_window_is_lost_and_none_is_spliced(
    model: ModelFolder, delegate: str, monkeypatch: pytest.MonkeyPatch, streaming: bool, cpu_streaming: bool | None
) -> None:
    """In the middle of a stream the CPU takes over: each window has what it has alone, to the last bit."""
    monkeypatch.setenv("DELEGATE_FOR_TESTS", "right")
    windows, windowed = stream_of(model, chunks_per_hop=1, seed=4)[:20], Classifier(model)
    device = Device("delegate", delegate)
    classifier = Classifier(model, streaming=streaming, device=device, cpu_streaming=cpu_streaming)

    predictions = [classifier.predict(window) for window in windows[:8]]
    assert classifier.failure is None
    monkeypatch.setenv("DELEGATE_FOR_TESTS", "1")
    predictions += [*classifier.predict_all(windows[8:12]), *map(classifier.predict, windows[12:])]

    assert classifier.failure is not None
    assert "the device has gone" in classifier.failure
    for window, prediction in zip(windows, predictions, strict=True):
        assert prediction.first_sample == window.first_sample
        assert prediction.embedding.tobytes() == windowed.predict(window).embedding.tobytes()


def test_no_windows_no_predictions(model: ModelFolder) -> None:
    """A block that completes no window is not an error."""
    assert Classifier(model, streaming=True).predict_all([]) == []


def test_a_stream_that_begins_anew_knows_nothing_of_the_past(model: ModelFolder) -> None:
    """The same stream twice, another between, all through one agent: the same predictions."""
    classifier = Classifier(model, streaming=True)
    first, other = (stream_of(model, chunks_per_hop=1, seed=seed) for seed in (1, 2))

    once, between, again = (
        [classifier.predict(window).embedding.tobytes() for window in w] for w in (first, other, first)
    )

    assert once == again != between


def test_a_card_without_a_streaming_form_cannot_stream(folder: Path) -> None:
    """The message names the folder."""
    model = edit_card(folder, lambda card: card.pop("streaming"))

    with pytest.raises(ModelError, match=rf"model folder {folder}: its card names no streaming form"):
        Classifier(model, streaming=True)


def test_a_streaming_form_that_is_not_the_cards_is_found(folder: Path) -> None:
    """Other chunks than the card says, or the windowed network under its name: the message has file and tensor."""
    model = edit_card(folder, lambda card: card["streaming"].update(chunk_frames=16))
    with pytest.raises(
        ModelError, match=r"_streaming\.tflite: first input shape is \(1, 8, 64, 1\), the card says \(1, 16,"
    ):
        Classifier(model, streaming=True)

    edit_card(folder, lambda card: card["streaming"].update(chunk_frames=8))
    model = put(folder, "streaming", model.embedding_file.read_bytes())
    with pytest.raises(ModelError, match=r"first input shape is \(1, 76, 64, 1\), the card says \(1, 8, 64, 1\)"):
        Classifier(model, streaming=True)


def test_a_state_that_comes_out_otherwise_than_it_goes_in_is_found(folder: Path) -> None:
    """A state must go in again as it came out: a second output with another scale stops the agent."""
    model = load_model_folder(folder)
    assert model.streaming_file is not None
    changed = tflite.ModelT.InitFromPackedBuf(model.streaming_file.read_bytes())
    (graph,) = changed.subgraphs
    column, first, second, *others = graph.outputs
    graph.outputs = [column, second, first, *others]
    builder = flatbuffers.Builder(0)
    builder.Finish(changed.Pack(builder), b"TFL3")

    with pytest.raises(ModelError, match=r"_streaming\.tflite: its states come out as .*, expected as they go in, "):
        Classifier(put(folder, "streaming", bytes(builder.Output())), streaming=True)


@pytest.fixture
def tensor() -> TensorCard:
    return TensorCard(shape=(1, 4), dtype="int8", scale=0.25, zero_point=-100)


def test_quantizing_rounds_to_the_nearest_step(tensor: TensorCard) -> None:
    """No value in the tensor's range is moved by more than half a step, and zero not at all."""
    values: FloatArray = np.linspace(-7.0, 56.75, 1001, dtype=np.float32)

    steps = quantize(values, tensor)

    assert steps.dtype == np.int8
    np.testing.assert_allclose(dequantize(steps, tensor), values, atol=0.125)
    assert dequantize(quantize(np.zeros(1, np.float32), tensor), tensor) == 0.0


def test_quantizing_clips_at_the_ends(tensor: TensorCard) -> None:
    """What lies outside the range takes the nearest end, however far out it is."""
    values = np.array([-1e9, -7.2, 56.8, 1e9], np.float32)

    assert quantize(values, tensor).tolist() == [-128, -128, 127, 127]


@pytest.mark.parametrize("network", ["embedding", "classifier"])
@pytest.mark.parametrize("role", ["input", "output"])
@pytest.mark.parametrize(("name", "wrong"), [("scale", 0.123), ("zero_point", 7)])
def test_a_quantization_that_is_not_the_cards_is_found(
    folder: Path, network: str, role: str, name: str, wrong: float
) -> None:
    """The message has the file, the tensor, what it is and what the card says."""
    actual = getattr(getattr(getattr(load_model_folder(folder).card, network), role), name)

    model = edit_card(folder, lambda card: card[network][role].update({name: wrong}))

    file = getattr(model, f"{network}_file")
    told = re.fullmatch(
        rf"model file {re.escape(str(file))}: {role} {name} is (\S+), the card says {wrong}", problem_with(model)
    )
    assert told is not None
    assert float(told[1]) == pytest.approx(actual)


def test_a_scale_may_be_written_with_seven_digits(folder: Path) -> None:
    """JSON may round a float32, as long as no step is moved by it."""
    scale = load_model_folder(folder).card.embedding.input.scale

    Classifier(edit_card(folder, lambda card: card["embedding"]["input"].update(scale=float(f"{scale:.7g}"))))


def test_a_shape_that_is_not_the_cards_is_found(folder: Path) -> None:
    """A card that promises other windows than the network takes stops the agent."""

    def fewer_bands(card: dict[str, Any]) -> None:
        card["front_end"]["n_mels"] = 40
        card["embedding"]["input"]["shape"][2] = 40

    model = edit_card(folder, fewer_bands)

    assert problem_with(model) == (
        f"model file {model.embedding_file}: input shape is (1, 76, 64, 1), the card says (1, 76, 40, 1)"
    )


def test_a_float_network_under_an_int8_card_is_found(folder: Path) -> None:
    """A network that was not quantized stops the agent, although its shapes are right."""
    d = load_model_folder(folder).require_classifier().input.shape[1]
    model = put(folder, "classifier", network_of([(1, d), (1, d)], is_float=True))

    assert problem_with(model) == f"model file {model.classifier_file}: input dtype is float32, the card says int8"


def float_model(folder: Path, *, axes: str) -> ModelFolder:
    """The folder with a float32 network that gives each value of its window squeezed into 0 to 1; no classifier."""
    n_frames, n_mels = 76, 64
    shape = (1, n_frames, n_mels, 1) if axes == "time_frequency" else (1, n_mels, n_frames, 1)
    content = network_of([shape, shape], is_float=True)
    (folder / "embedding.tflite").write_bytes(content)

    def change(card: dict[str, Any]) -> None:
        for key in ("classifier", "streaming", "groups"):
            del card[key]
        card.update(labels=[], background_label=None)
        card["events"]["classes"] = {}
        card["front_end"]["axes"] = axes
        tensor = {"shape": shape, "dtype": "float32"}
        digest = hashlib.sha256(content).hexdigest()
        card["embedding"] = {"file": "embedding.tflite", "sha256": digest, "input": tensor, "output": tensor}

    return edit_card(folder, change)


@pytest.mark.parametrize("axes", ["time_frequency", "frequency_time"])
def test_a_float_network_takes_a_window_as_it_is(folder: Path, windows: list[Window], axes: str) -> None:
    """Nothing is rounded; the axes are those of the card."""
    embedding = Embedder(float_model(folder, axes=axes)).embed(windows[0])

    log_mel = windows[0].log_mel if axes == "time_frequency" else windows[0].log_mel.T
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(embedding, 1.0 / (1.0 + np.exp(-log_mel.astype(np.float64).ravel())), rtol=1e-5)


def test_an_embedding_alone_classifies_nothing(folder: Path) -> None:
    """The message says how to get classes."""
    assert "is an embedding without a classifier" in problem_with(float_model(folder, axes="time_frequency"))


@pytest.mark.parametrize("streaming", [False, True])
def test_the_embedding_alone_is_the_classifiers(model: ModelFolder, streaming: bool) -> None:
    """Who needs no likelihoods gets the same embedding, to the last bit."""
    windows = stream_of(model, chunks_per_hop=1, seed=3)
    classifier, embedder = Classifier(model, streaming=streaming), Embedder(model, streaming=streaming)

    for window in windows:
        assert embedder.embed(window).tobytes() == classifier.predict(window).embedding.tobytes()


def test_an_int8_classifier_may_follow_a_float_embedding(model: ModelFolder) -> None:
    """Steps go from one network to the other only where both are int8."""
    tensor = model.card.embedding.output
    floating = TensorCard(shape=tensor.shape, dtype="float32")

    values = np.array([0.1, -3.0], np.float32)

    np.testing.assert_array_equal(quantize(values, floating), values)
    np.testing.assert_array_equal(dequantize(values, floating), values)
    assert not _same_steps(floating, TensorCard(shape=tensor.shape, dtype="int8", scale=1.0, zero_point=0))
    assert _same_steps(tensor, tensor)


def test_another_network_is_found(folder: Path) -> None:
    """A network of the right shape that is not this one stops the agent."""
    model = put(folder, "embedding", network_of([(1, 76, 64, 1)] * 2, is_float=True))

    assert problem_with(model).startswith(f"model file {model.embedding_file}: input dtype is float32")


@pytest.mark.skipif(not YAMNET.exists(), reason=f"no {YAMNET}")
@pytest.mark.parametrize("network", ["embedding", "classifier"])
def test_yamnets_file_under_our_card_is_found(folder: Path, network: str) -> None:
    """Somebody else's network stops the agent, even when the card has its hash."""
    model = put(folder, network, YAMNET.read_bytes())

    assert problem_with(model).startswith(
        f"model file {getattr(model, f'{network}_file')}: input shape is (15600,), the card says (1, "
    )


@pytest.mark.parametrize("cut", [0, 4, 1000, 0.5, 0.99])
def test_a_file_that_litert_cannot_load_is_found(folder: Path, cut: float) -> None:
    """A truncated or empty file stops the agent with LiteRT's reason, not with a crash."""
    content = load_model_folder(folder).embedding_file.read_bytes()
    model = put(folder, "embedding", content[: cut if isinstance(cut, int) else int(cut * len(content))])

    assert problem_with(model).startswith(f"model file {model.embedding_file}: LiteRT cannot load it (")


def test_a_file_that_goes_away_after_the_check_is_found(folder: Path) -> None:
    """A file removed between the check of its hash and its loading is an error like any other."""
    model = load_model_folder(folder)
    model.classifier_file.unlink()

    assert "LiteRT cannot load it" in problem_with(model)


def test_loading_a_model_says_nothing() -> None:
    """LiteRT's greeting is kept off standard error, where a person looks for errors."""
    code = "from agent import inference, model_card as m; inference.Classifier(m.load_model_folder(m.DEFAULT_MODEL))"
    told = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, timeout=60, check=True)

    assert (told.stdout, told.stderr) == (b"", b"")
