"""`urbansound-model`."""

import argparse
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.errors import OutputError
from agent.model_card import DEFAULT_MODEL, load_model_folder
from model_export import cli
from model_export import soundscapes as soundscapes_module
from model_export import tune as tune_module
from model_export.clips import LABELS, Clip
from model_export.files import whole
from model_export.results import write_predictions, write_windows
from model_export.soundscapes import Street
from tests.conftest import REPOSITORY
from tests.model_export.conftest import SMALL_RECIPE
from tests.model_export.predicted import predicted, windows_of
from tests.test_inference import YAMNET


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """What a cross-validation of two systems on one fold wrote."""
    rows = [("a", "siren", "siren", 0.9), ("b", "siren", "drilling", 0.6), ("c", "background", "background", 0.7)]
    runs = [predicted(rows), predicted(rows, system="peer")]
    folder = tmp_path / "results"
    folder.mkdir()
    write_predictions(runs, folder / "predictions.csv")
    return folder


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        ("classifier.tflite >&-", 74, "standard output: cannot be written (Bad file descriptor)"),
        ("classifier.tflite > /dev/full", 74, "standard output: cannot be written (No space left on device)"),
        ("missing.tflite 2>&-", 78, ""),
    ],
)
def test_what_nobody_can_read_is_not_lost_in_silence(asked: str, code: int, said: str) -> None:
    """Nor does it end as if an operator would not map; where errors cannot be read, they are not among the results."""
    command = f"{sys.executable} -m model_export.cli edgetpu-check {DEFAULT_MODEL}/{asked}"

    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, cwd=REPOSITORY)

    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "urbansound-model:" not in done.stdout


def test_one_thread_multiplies_however_many_cores_there_are() -> None:
    """Others would only spin, and a model would depend on the machine; the package says so before numpy is loaded."""
    program = (
        "import os, model_export.cli, numpy; numpy.ones((999, 999)) @ numpy.ones((999, 999)); "
        "print(len(os.listdir('/proc/self/task')))"
    )
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, cwd=REPOSITORY, env=inherited
    )

    assert int(done.stdout) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_work_and_what_it_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    """No traceback, the exit code of the signal, and no half of a file."""

    def interrupted(_options: argparse.Namespace) -> None:
        with whole(tmp_path / "x.npy") as partial:
            partial.touch()
            os.kill(os.getpid(), number)

    monkeypatch.setitem(cli.COMMANDS, "edgetpu-check", interrupted)

    try:
        ended = cli.main(["edgetpu-check", "x"])
    except SystemExit as leaving:
        ended = int(str(leaving.code))

    assert ended == code
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_like_any_other(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names the place where somebody asked for a file, and 74 for what is written on the way."""
    assert cli.main(["evaluate", "--results", str(results), "--json", "/dev/full"]) == 2
    assert "urbansound-model: /dev/full: No space left on device; expected a place" in capsys.readouterr().err

    def quantize(_options: argparse.Namespace) -> None:
        Path("/dev/full").write_text("a network", encoding="utf-8")

    monkeypatch.setitem(cli.COMMANDS, "edgetpu-check", quantize)
    assert cli.main(["edgetpu-check", "x"]) == 74
    assert capsys.readouterr().err == "urbansound-model: a file: No space left on device\n"


@pytest.mark.slow
def test_build_makes_a_verified_model_by_one_command(
    data_sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From recordings to a folder that the agent loads; what was only needed on the way is gone."""
    monkeypatch.setattr(cli, "_recipe", lambda _options: SMALL_RECIPE)
    us8k, esc10 = data_sets

    code = cli.main(["build", "--us8k", str(us8k), "--esc10", str(esc10), "--out", str(tmp_path / "model")])

    assert code == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" ")[0] for line in printed] == ["response:", "model", "verified"]  # and nothing of Keras's own
    assert load_model_folder(tmp_path / "model").card.name == "l3-edge-us8k"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {
        "MODEL_CARD.md",
        "classifier.tflite",
        "embedding.tflite",
        "embedding_streaming.tflite",
        "model.json",
    }


def test_verify_notices_a_changed_card(
    data_sets: tuple[Path, Path], trained: Path, packaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A card that promises another scale than the file has is named, with exit code 78."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in packaged.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    card = json.loads((broken / "model.json").read_text())
    card["embedding"]["input"]["scale"] *= 2
    (broken / "model.json").write_text(json.dumps(card))
    us8k, esc10 = data_sets

    code = cli.main(
        ["verify", "--us8k", str(us8k), "--esc10", str(esc10), "--networks", str(trained), "--model", str(broken)]
    )

    assert code == 78
    assert "scale" in capsys.readouterr().err


def test_verify_notices_metadata_that_disagree_with_the_card(
    data_sets: tuple[Path, Path], trained: Path, packaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A card of another version than the files say they are of is named, with exit code 78."""
    broken = shutil.copytree(packaged, tmp_path / "broken")
    card = json.loads((broken / "model.json").read_text())
    (broken / "model.json").write_text(json.dumps(card | {"version": "another"}))
    us8k, esc10 = data_sets

    code = cli.main(
        ["verify", "--us8k", str(us8k), "--esc10", str(esc10), "--networks", str(trained), "--model", str(broken)]
    )

    assert code == 78
    assert "embedding.tflite: its metadata says version = '1', expected 'another'" in capsys.readouterr().err


def test_build_says_at_once_that_there_is_nothing_to_calibrate_on(
    data_sets: tuple[Path, Path], results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before training: only the tables of the cross-validation were kept."""
    us8k, esc10 = data_sets
    data = ["--us8k", str(us8k), "--esc10", str(esc10), "--results", str(results)]

    code = cli.main(["build", *data, "--out", str(tmp_path / "model")])

    assert code == 2
    assert "no windows to calibrate on" in capsys.readouterr().err


def test_build_says_at_once_that_the_model_cannot_be_written(
    data_sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before training: a file stands where the folder is to be."""
    us8k, esc10 = data_sets
    (tmp_path / "model").touch()
    monkeypatch.setattr(cli, "_train", None)

    code = cli.main(["build", "--us8k", str(us8k), "--esc10", str(esc10), "--out", str(tmp_path / "model")])

    assert code == 2
    assert f"{tmp_path / 'model'}: File exists; expected a place to write to" in capsys.readouterr().err


def test_build_leaves_no_folder_where_it_cannot_begin(
    data_sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Keras, or without the data."""
    us8k, esc10 = map(str, data_sets)
    out = tmp_path / "model"

    assert cli.main(["build", "--us8k", str(tmp_path), "--esc10", esc10, "--out", str(out)]) == 2
    assert not out.exists()
    monkeypatch.delitem(sys.modules, "model_export.train", raising=False)
    monkeypatch.setitem(sys.modules, "keras", None)
    assert cli.main(["build", "--us8k", us8k, "--esc10", esc10, "--out", str(out)]) == 2
    assert not out.exists()


def test_build_writes_into_the_folder_that_one_stands_in(
    data_sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trained networks lie beside it, not in it, until they are no longer needed."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    trained: list[Path] = []

    def train(options: argparse.Namespace) -> None:
        options.out.mkdir()
        trained.append(options.out)

    monkeypatch.setattr(cli, "_train", train)
    for step in ("_quantize", "_package", "_verify"):
        monkeypatch.setattr(cli, step, lambda _options: None)

    us8k, esc10 = map(str, data_sets)
    assert cli.main(["build", "--us8k", us8k, "--esc10", esc10, "--out", "."]) == 0

    assert trained == [tmp_path / "here.networks"]
    assert list(tmp_path.iterdir()) == [tmp_path / "here"]


@pytest.mark.slow
def test_calibration_goes_from_cross_validation_into_the_model(
    data_sets: tuple[Path, Path], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is fitted on clips that were not trained on is in the int8 classifier, and float and int8 still agree."""
    us8k, esc10 = data_sets
    networks, model, results = tmp_path / "networks", tmp_path / "model", tmp_path / "results"
    shutil.copytree(trained, networks)
    fold = windows_of("sigmoid", too_sure=2.0, n_clips=2_000)
    wide = np.pad(fold.sums, ((0, 0), (0, len(LABELS) - 3)), constant_values=-20.0)
    run = replace(fold.run, labels=LABELS, likelihoods=np.full((2_000, len(LABELS)), 0.1))
    (results / "fold1").mkdir(parents=True)
    write_predictions([run], results / "predictions.csv")
    write_windows(replace(fold, run=run, sums=wide), results / "fold1" / "windows.npz")
    data = ["--us8k", str(us8k), "--esc10", str(esc10)]

    codes = [
        cli.main(["calibrate", "--networks", str(networks), "--results", str(results)]),
        cli.main(["quantize", *data, "--networks", str(networks), "--out", str(model)]),
        cli.main(["package", *data, "--networks", str(networks), "--model", str(model)]),
        cli.main(["verify", *data, "--networks", str(networks), "--model", str(model)]),
    ]

    assert codes == [0, 0, 0, 0]
    fitted = re.search(r"\| air_conditioner +\| +([0-9.]+) \|", capsys.readouterr().out)
    assert fitted
    assert float(fitted[1]) == pytest.approx(0.5, abs=0.1)  # half of what it was: too sure by twice
    assert "Likelihoods are calibrated" in (model / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_a_wrong_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pointing at the wrong place is a usage error that says which option and which folder."""
    code = cli.main(["train", "--us8k", str(tmp_path), "--esc10", str(tmp_path), "--out", str(tmp_path / "x")])

    assert code == 2
    assert f"--us8k {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize("refused", ["--epochs 0: expected 1 or more", "--seed -1: expected 0 or more"])
def test_numbers_that_make_no_sense_are_refused(
    data_sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: str
) -> None:
    """Before any work is done."""
    us8k, esc10 = data_sets
    option = refused.partition(":")[0].split()

    code = cli.main(["train", "--us8k", str(us8k), "--esc10", str(esc10), "--out", str(tmp_path), *option])

    assert code == 2
    assert refused in capsys.readouterr().err


def test_networks_that_are_not_there_are_named(
    data_sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pointing at the wrong folder is a usage error that says what was expected there."""
    us8k, esc10 = data_sets
    data = ["--us8k", str(us8k), "--esc10", str(esc10), "--model", str(tmp_path)]

    code = cli.main(["package", *data, "--networks", str(tmp_path / "none")])

    assert code == 2
    assert f"{tmp_path / 'none'}: has no training.json, expected what `train` wrote" in capsys.readouterr().err


def test_folds_that_are_not_there_are_refused(
    data_sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says which folds there are."""
    us8k, esc10 = data_sets
    data = ["--us8k", str(us8k), "--esc10", str(esc10)]

    code = cli.main(["crossvalidate", *data, "--out", str(tmp_path), "--folds", "1", "7"])

    assert code == 2
    assert f"--folds 7: neither in --us8k {us8k} nor in --esc10 {esc10}, expected of 1, 2" in capsys.readouterr().err


def test_folds_are_trained_here_and_tested_elsewhere(
    data_sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--train-only`, each fold is trained in its own folder, with the processes asked for, and nothing more."""
    us8k, esc10 = data_sets
    trained = []

    def train_fold(clips: Sequence[Clip], _: object, work: Path, **options: object) -> None:
        trained.append((work, {clip.fold for clip in clips}, options["num_processes"]))

    monkeypatch.setattr("model_export.crossvalidate.train_fold", train_fold)
    monkeypatch.setattr("model_export.crossvalidate.crossvalidate", None)
    data = ["--us8k", str(us8k), "--esc10", str(esc10)]

    assert cli.main(["crossvalidate", *data, "--out", str(tmp_path), "--train-only", "--jobs", "3"]) == 0

    assert trained == [(tmp_path / "fold1", {2}, 3), (tmp_path / "fold2", {1}, 3)]


def test_a_fold_of_esc10_alone_is_not_tested_unless_it_is_asked_for(
    data_sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default the folds are those of UrbanSound8K: with ESC-10's own, a network would be trained to test on dogs."""
    us8k, esc10 = data_sets
    more = shutil.copytree(esc10, tmp_path / "esc10")
    metadata = more / "metadata.csv"
    metadata.write_text(metadata.read_text().replace("0-rain.wav,1,", "0-rain.wav,3,"))
    trained: list[str] = []
    monkeypatch.setattr(
        "model_export.crossvalidate.train_fold", lambda _clips, _recipe, work, **_options: trained.append(work.name)
    )
    command = ["crossvalidate", "--us8k", str(us8k), "--esc10", str(more), "--out", str(tmp_path), "--train-only"]

    assert cli.main(command) == 0
    assert cli.main([*command, "--folds", "3"]) == 0

    assert trained == ["fold1", "fold2", "fold3"]


def test_less_than_no_process_is_refused(
    data_sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the option and what was expected."""
    us8k, esc10 = data_sets
    data = ["--us8k", str(us8k), "--esc10", str(esc10)]

    assert cli.main(["train", *data, "--out", str(tmp_path), "--jobs", "-1"]) == 2

    assert "--jobs -1: expected 0 or more" in capsys.readouterr().err


def test_evaluate_prints_writes_and_draws(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables on standard output; all figures as JSON and pictures where they are asked for."""
    figures, plots = tmp_path / "new" / "figures.json", tmp_path / "plots"

    code = cli.main(["evaluate", "--results", str(results), "--json", str(figures), "--plots", str(plots)])

    assert code == 0
    assert capsys.readouterr().out.startswith("# UrbanSound8K")
    written = json.loads(figures.read_text())
    assert written["us8k"]["systems"][0]["accuracy"]["1"]["value"] == 0.5
    assert written["us8k"]["tests"][0]["system"] == "peer"
    assert len(list(plots.glob("*.png"))) == 3


def test_evaluate_needs_no_tensorflow(results: Path) -> None:
    """Others can judge the results with the agent's own requirements, without pictures."""
    blocked = "import sys; sys.modules |= dict.fromkeys(['tensorflow', 'keras', 'matplotlib']); "
    program = f"{blocked}from model_export.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "evaluate", "--results", str(results)]

    without_pictures = subprocess.run(command, capture_output=True, text=True, check=False)
    with_pictures = subprocess.run([*command, "--plots", "x"], capture_output=True, text=True, check=False)

    assert without_pictures.returncode == 0
    assert with_pictures.returncode == 2
    assert "matplotlib is not installed; in its source, pip install '.[plot]'" in with_pictures.stderr


def test_evaluate_judges_a_model_folder(
    data_sets: tuple[Path, Path], packaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same tables as of a cross-validation; what was kept gives them again without the recordings."""
    us8k, esc10 = data_sets
    model = shutil.copytree(packaged, tmp_path / "model")
    card = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(card | {"trained_on": {"us8k": [1], "esc10": [1]}}))
    out = tmp_path / "out"
    data = ["--us8k", str(us8k), "--esc10", str(esc10)]

    code = cli.main(["evaluate", *data, "--model", str(model), "--folds", "2", "--out", str(out)])

    printed = capsys.readouterr().out
    assert code == 0
    assert "| l3-edge-us8k 1 |" in " ".join(printed.split())
    assert "# ESC-10" in printed
    assert cli.main(["evaluate", "--results", str(out)]) == 0
    assert capsys.readouterr().out == printed


def test_tables_of_another_model_do_not_stay(
    data_sets: tuple[Path, Path], packaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an earlier run kept of ESC-10 is not taken for a part of a run without it."""
    model = shutil.copytree(packaged, tmp_path / "model")
    card = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(card | {"trained_on": {"us8k": [1], "esc10": [1]}}))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "esc10.csv").write_text("of another model")
    asked = ["--us8k", str(data_sets[0]), "--model", str(model), "--folds", "2", "--out", str(tmp_path / "out")]

    assert cli.main(["evaluate", *asked]) == 0

    printed = capsys.readouterr().out
    assert cli.main(["evaluate", "--results", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == printed


def test_evaluate_refuses_folds_that_the_model_has_heard(
    data_sets: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The shipped model was trained on folds 1 to 3: what it says about them is no test."""
    code = cli.main(["evaluate", "--us8k", str(data_sets[0]), "--folds", "2"])

    assert code == 2
    assert "--folds 2:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"), [("folds", "1"), ("model", "x"), ("esc10", "x"), ("peer", "x"), ("out", "x")]
)
def test_evaluate_takes_either_results_or_recordings(
    results: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    """What makes sense for one is not silently passed over for the other."""
    code = cli.main(["evaluate", "--results", str(results), f"--{option}", value])

    assert code == 2
    assert f"--{option}: goes with --us8k, not with --results" in capsys.readouterr().err


def test_evaluate_needs_something_to_judge(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither of both is a usage error that names both."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate"])

    assert ended.value.code == 2
    assert "--results --us8k" in capsys.readouterr().err


def test_probe_prints_and_writes(
    data_sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gain on some clips, noise, and ESC-10's background; all figures as JSON where they are asked for."""
    monkeypatch.setattr("model_export.probe.N_DRAWS", 1)
    us8k, esc10 = data_sets
    file = tmp_path / "new" / "probe.json"
    data = ["--us8k", str(us8k), "--esc10", str(esc10), "--folds", "1"]

    code = cli.main(["probe", *data, "--clips", "2", "--json", str(file)])

    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert any("of 2 clips (of which it has heard 2 in training)" in line for line in lines)
    assert any(line.startswith("| silence | | | 21 | 100 | 0 |") for line in lines)
    assert any(line.startswith("| sea_waves | | +20 dB |") for line in lines)
    assert json.loads(file.read_text())["clips"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clips", "0"], "--clips 0: expected 1 or more"),
        (["--folds", "1", "7"], "--folds 7: not in --us8k {us8k}, expected of 1, 2"),
    ],
)
def test_probe_refuses_what_makes_no_sense(
    data_sets: tuple[Path, Path], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """Before any work is done."""
    code = cli.main(["probe", "--us8k", str(data_sets[0]), *arguments])

    assert code == 2
    assert message.format(us8k=data_sets[0]) in capsys.readouterr().err


def test_evaluate_names_a_folder_without_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pointing at the wrong place is a usage error that says what was expected there."""
    code = cli.main(["evaluate", "--results", str(tmp_path)])

    assert code == 2
    assert f"{tmp_path / 'predictions.csv'}: No such file" in capsys.readouterr().err


def test_evaluate_names_what_it_cannot_write(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tables are printed all the same."""
    code = cli.main(["evaluate", "--results", str(results), "--json", str(results / "predictions.csv" / "x")])

    printed = capsys.readouterr()
    assert code == 2
    assert printed.out.startswith("# UrbanSound8K")
    assert str(results / "predictions.csv") in printed.err


@pytest.fixture(scope="module")
def made_scenes(data_sets: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight short scenes of two folds, made by the command."""
    out = tmp_path_factory.mktemp("scenes")
    data = ["--us8k", str(data_sets[0]), "--esc10", str(data_sets[1])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soundscapes_module, "Street", functools.partial(Street, scene_s=15.0, event_free_every=9))
        assert cli.main(["soundscapes", *data, "--folds", "1", "2", "--hours", "0.01", "--out", str(out)]) == 0
    return out


def test_scenes_are_made_scored_and_tuned(
    made_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command prints its tables and writes what it is asked for; the model that was tuned is left as it was."""
    monkeypatch.setattr(tune_module, "MIN_DURATION_S", (0.3,))
    monkeypatch.setattr(tune_module, "MERGE_GAP_S", (0.5,))
    judged = ["--model", str(DEFAULT_MODEL), "--scenes", str(made_scenes)]
    before = (DEFAULT_MODEL / "model.json").read_bytes()
    assert len(list(made_scenes.glob("*.flac"))) == 8
    capsys.readouterr()

    scored = cli.main(["score", *judged, "--json", str(tmp_path / "s.json"), "--out", str(tmp_path / "files")])
    told = capsys.readouterr().out
    tuned = cli.main(["tune", *judged, "--json", str(tmp_path / "t.json"), "--out", str(tmp_path / "tuned")])

    assert (scored, tuned) == (0, 0)
    assert told.startswith("# Events in labelled scenes\n\n8 scenes, 0.03 h")
    assert json.loads((tmp_path / "s.json").read_text())[0]["scenes"] == 8
    assert len(list((tmp_path / "files" / "told").iterdir())) == 8
    text = capsys.readouterr().out
    assert "| a rule for each label |" in text
    assert json.loads((tmp_path / "t.json").read_text())["budget"] == 2.0
    assert load_model_folder(tmp_path / "tuned").sha256 in text
    assert "## Events\n" in (tmp_path / "tuned" / "MODEL_CARD.md").read_text()
    assert (DEFAULT_MODEL / "model.json").read_bytes() == before


def test_numbers_are_written_before_they_are_told(
    made_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was to read them may have gone after hours of tuning; and what cannot be written is told at least."""
    for name, few in {"ON": (0.5, 1.0), "OFF": (0.5,), "SPAN_S": (1.0,), "MIN_DURATION_S": (0.3,)}.items():
        monkeypatch.setattr(tune_module, name, few)
    command = ["tune", "--model", str(DEFAULT_MODEL), "--scenes", str(made_scenes), "--out"]

    def gone(_text: str) -> None:
        raise OutputError("standard output")

    assert cli.main([*command, "/dev/null/model"]) == 2
    assert "| a rule for each label |" in capsys.readouterr().out
    monkeypatch.setattr(cli, "put", gone)
    monkeypatch.setattr(cli, "let_go", lambda _stream: None)
    assert cli.main([*command, str(tmp_path / "tuned")]) == 74
    load_model_folder(tmp_path / "tuned")


def test_background_is_no_event_that_could_be_labelled(
    made_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is never told: such lines would be misses, and false alarms in them would not be counted."""
    (scene, *_) = sorted(made_scenes.glob("*.flac"))
    shutil.copy(scene, tmp_path / "quiet.flac")
    (tmp_path / "quiet.tsv").write_text("0.0\t15.0\tbackground\n")

    assert cli.main(["score", "--model", str(DEFAULT_MODEL), "--scenes", str(tmp_path)]) == 2

    told = capsys.readouterr().err
    assert "quiet.tsv, line 1: '0.0\\t15.0\\tbackground', expected onset before offset and one of air_cond" in told
    assert not told.rstrip().endswith("background")


@pytest.fixture
def fold_models(tmp_path: Path) -> Path:
    """A cross-validation of two folds, as far as scenes need one: the default model as if it had heard no fold."""
    for fold in (1, 2):
        folder = shutil.copytree(DEFAULT_MODEL, tmp_path / "cv" / f"fold{fold}")
        card = json.loads((folder / "model.json").read_text())
        card.pop("trained_on", None)
        (folder / "model.json").write_text(json.dumps(card))
    return tmp_path / "cv"


def test_a_crossvalidation_is_scored_by_its_own_networks(
    data_sets: tuple[Path, Path],
    fold_models: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each fold's scenes are made and heard, and no sound is written; a network that has heard its fold is refused."""
    monkeypatch.setattr(soundscapes_module, "Street", functools.partial(Street, scene_s=10.0))
    data = ["--us8k", str(data_sets[0]), "--esc10", str(data_sets[1]), "--hours", "0.01"]
    command = ["score", "--model", str(DEFAULT_MODEL), "--crossvalidation", str(fold_models), *data]

    assert cli.main(command) == 0
    assert capsys.readouterr().out.startswith("# Events in labelled scenes\n\n8 scenes, 0.02 h")
    assert not list(fold_models.rglob("*.flac"))
    card = json.loads((fold_models / "fold2" / "model.json").read_text())
    (fold_models / "fold2" / "model.json").write_text(json.dumps(card | {"trained_on": {"us8k": [1, 2]}}))
    assert cli.main(command) == 2
    assert "fold2: was trained on fold 2 (trained_on.us8k)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--crossvalidation", "nowhere"], "--crossvalidation: needs --us8k and --esc10 as well"),
        (["--crossvalidation", "nowhere", "--us8k", "u", "--esc10", "e"], "--crossvalidation nowhere: no folder fold1"),
        (["--crossvalidation", "n", "--us8k", "u", "--esc10", "e", "--hours", "0"], "--hours 0: expected more than 0"),
        (["--crossvalidation", "n", "--us8k", "u", "--esc10", "e", "--seed", "-1"], "--seed -1: expected 0 or more"),
    ],
)
def test_what_makes_no_sense_for_scenes_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says what was expected."""
    assert cli.main(["score", "--model", str(DEFAULT_MODEL), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(not YAMNET.is_file(), reason=f"no {YAMNET}")
def test_a_peer_that_knows_none_of_the_labels_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model of one's own classes has nothing that YAMNet could be asked for; that is said before the work."""
    model = shutil.copytree(DEFAULT_MODEL, tmp_path / "model")
    card = (model / "model.json").read_text(encoding="utf-8")
    for label in json.loads(card)["labels"]:
        card = card.replace(f'"{label}"', f'"my_{label}"')
    (model / "model.json").write_text(card, encoding="utf-8")

    assert cli.main(["score", "--model", str(model), "--scenes", "nowhere", "--peer", str(YAMNET)]) == 2
    assert "yamnet.tflite: knows none of the model's labels, my_air_conditioner, " in capsys.readouterr().err


def test_a_negative_budget_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Fewer than no false alarms cannot be had."""
    assert cli.main(["tune", "--model", str(DEFAULT_MODEL), "--scenes", "nowhere", "--budget", "-1"]) == 2
    assert "--budget -1: expected 0 or more" in capsys.readouterr().err


def test_scenes_are_judged_without_tensorflow(made_scenes: Path) -> None:
    """Scoring needs the agent's own requirements only."""
    blocked = "import sys; sys.modules |= dict.fromkeys(['tensorflow', 'keras', 'matplotlib']); "
    program = f"{blocked}from model_export.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["score", "--model", str(DEFAULT_MODEL), "--scenes", str(made_scenes)]

    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
