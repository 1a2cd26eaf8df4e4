"""The model that comes with the agent, as it is loaded and as it judges."""

import pytest

from agent.app import Judge
from agent.config import Config
from agent.model_card import DEFAULT_MODEL, ModelFolder, load_model_folder


@pytest.fixture(scope="module")
def model() -> ModelFolder:
    return load_model_folder(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(Config())
