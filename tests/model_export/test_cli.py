"""`urbansound-model`."""

import json
import shutil
from pathlib import Path

import pytest

from agent.model_card import load_model_folder
from model_export import cli
from tests.model_export.conftest import SMALL_RECIPE


def test_build_makes_a_verified_model_by_one_command(
    data_sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From recordings to a folder that the agent loads; what was only needed on the way is gone."""
    monkeypatch.setattr(cli, "_recipe", lambda _options: SMALL_RECIPE)
    us8k, esc10 = data_sets

    code = cli.main(["build", "--us8k", str(us8k), "--esc10", str(esc10), "--out", str(tmp_path / "model")])

    assert code == 0
    assert "verified on" in capsys.readouterr().out
    assert load_model_folder(tmp_path / "model").card.name == "l3-edge-us8k"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"MODEL_CARD.md", "classifier.tflite", "embedding.tflite", "model.json"}


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


def test_a_wrong_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pointing at the wrong place is a usage error that says which option and which folder."""
    code = cli.main(["train", "--us8k", str(tmp_path), "--esc10", str(tmp_path), "--out", str(tmp_path / "x")])

    assert code == 2
    assert f"--us8k {tmp_path}" in capsys.readouterr().err


def test_no_epochs_are_refused(
    data_sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A number that makes no sense is refused before any work is done."""
    us8k, esc10 = data_sets

    code = cli.main(["train", "--us8k", str(us8k), "--esc10", str(esc10), "--out", str(tmp_path), "--epochs", "0"])

    assert code == 2
    assert "--epochs 0: expected 1 or more" in capsys.readouterr().err
