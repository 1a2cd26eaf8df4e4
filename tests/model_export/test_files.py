"""Promises of `model_export.files`: a file is there whole, or as it was before."""

from pathlib import Path

import pytest

from model_export.files import whole


def test_what_was_written_is_the_file(tmp_path: Path) -> None:
    """Until all of it is written, the one before stays; nothing else is left."""
    file = tmp_path / "card.json"
    file.write_text("before")

    with whole(file) as partial:
        partial.write_text("after")
        assert (file.read_text(), partial.suffix) == ("before", ".json")

    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("card.json", "after")]


def test_half_a_file_is_none(tmp_path: Path) -> None:
    """Whatever stops the writing takes away what was written of it."""

    def interrupted() -> None:
        with whole(tmp_path / "card.json") as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert list(tmp_path.iterdir()) == []
