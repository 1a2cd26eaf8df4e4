"""YAMNet with its own classes, as a peer that was never taught ours.

In: `yamnet.tflite`, which gives 521 scores and does not say for what. Out: tracks with one likelihood for each of our
labels, to be judged by rules as ours are.

Source of numbers and names: `yamnet_class_map.csv` of YAMNet (tensorflow/models, research/audioset/yamnet, Apache-2.0).
Only classes are used that were seen to tell our label apart: given below is the area under the ROC curve of the class's
mean score, over 2148 clips of UrbanSound8K (folds 1, 2 and a part of 3) and 320 of ESC-10.
"""

from pathlib import Path

import numpy as np
import soxr
from ai_edge_litert.interpreter import Interpreter

from agent.errors import ModelError
from agent.model_card import EventCard
from agent.values import FloatArray, Prediction
from model_export.features import read_mono
from model_export.scenes import Scene, SceneFile
from model_export.soundscapes import SAMPLE_RATE_HZ, Soundscape
from model_export.tracks import NOTHING_KNOWN, WINDOW_HOP_S, Track

N_CLASSES = 521
RATE_HZ = 16_000
HOP_SAMPLES = round(WINDOW_HOP_S * RATE_HZ)
AUDIOSET: dict[str, dict[int, str]] = {
    "air_conditioner": {406: "Mechanical fan", 407: "Air conditioning"},  # 0.81, 0.79
    "car_horn": {302: "Vehicle horn, car horn, honking", 303: "Toot", 312: "Air horn, truck horn"},  # 0.94, 0.90, 0.91
    "children_playing": {10: "Children shouting", 66: "Children playing"},  # 0.89, 0.95
    "dog_bark": {69: "Dog", 70: "Bark", 71: "Yip", 73: "Bow-wow"},  # 0.97 each
    "drilling": {418: "Power tool", 419: "Drill"},  # 0.92 each
    "engine_idling": {346: "Idling"},  # 0.86
    "gun_shot": {421: "Gunshot, gunfire", 422: "Machine gun", 425: "Cap gun"},  # 0.99, 0.96, 0.95
    "jackhammer": {414: "Jackhammer"},  # 0.81
    "siren": {  # 0.93 to 0.96
        316: "Emergency vehicle",
        317: "Police car (siren)",
        318: "Ambulance (siren)",
        319: "Fire engine, fire truck (siren)",
        390: "Siren",
    },
    "street_music": {132: "Music"},  # 0.97
}
# Not measured: half a window.
RESPONSE_S = 0.49


class YamnetListener:
    """YAMNet hearing scenes, one window each 0.1 s; the score of a label is the largest of its classes.

    Args:
        file: TFLite, a waveform at 16 kHz in, 521 scores out.

    Raises:
        ModelError: the file is something else.
    """

    def __init__(self, file: Path) -> None:
        self.name = file.stem
        try:
            self._interpreter = Interpreter(model_path=str(file), num_threads=1)
        except (ValueError, OSError) as error:
            raise ModelError(f"--peer {file}: not a TFLite file ({error})") from error
        self._interpreter.allocate_tensors()
        into, out_of = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]
        n_scores = int(np.prod(out_of["shape"]))
        if n_scores != N_CLASSES or len(into["shape"]) != 1:
            raise ModelError(f"--peer {file}: gives {n_scores} scores, expected YAMNet's {N_CLASSES} of a waveform")
        self._input, self._output = into["index"], out_of["index"]
        self._window_samples = int(into["shape"][0])
        self.labels = tuple(AUDIOSET)

    def hear(self, soundscape: Soundscape) -> Track:
        """The track of a scene that was just made."""
        return self._track(soundscape.scene, soundscape.samples, SAMPLE_RATE_HZ)

    def hear_file(self, scene_file: SceneFile) -> Track:
        """The track of a scene in a file.

        Raises:
            RecordingError: it cannot be read, or holds no sound.
        """
        return self._track(scene_file.scene, *read_mono(scene_file.file))

    def event_card(self, like: EventCard) -> EventCard:
        """The event numbers of a model, with the peer's own responses and nothing that was set for a class."""
        responses = {"onset_response_s": RESPONSE_S, "offset_response_s": RESPONSE_S}
        return like.model_copy(update=responses | {"classes": {}})

    def _track(self, scene: Scene, samples: FloatArray, rate_hz: int) -> Track:
        duration_s = len(samples) / rate_hz
        if rate_hz != RATE_HZ:
            samples = soxr.resample(samples, rate_hz, RATE_HZ)
        length = self._window_samples
        samples = np.pad(samples, (0, max(0, length - len(samples))))
        starts = range(0, len(samples) - length + 1, HOP_SAMPLES)
        predictions = [
            Prediction(self._likelihoods(samples[start:][:length]), NOTHING_KNOWN, start, length) for start in starts
        ]
        return Track(scene, self.labels, duration_s, RATE_HZ, tuple(predictions))

    def _likelihoods(self, window: FloatArray) -> FloatArray:
        self._interpreter.set_tensor(self._input, window.astype(np.float32))
        self._interpreter.invoke()
        scores = self._interpreter.get_tensor(self._output).reshape(-1)  # (521,)
        return np.array([scores[list(classes)].max() for classes in AUDIOSET.values()], np.float32)
