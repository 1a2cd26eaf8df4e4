# Everything sets itself up: a virtual environment in .venv, Debian packages only where they are missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

# An environment that was half made, without ensurepip, would be taken for one.
.DELETE_ON_ERROR:

.PHONY: model demo test check benchmark fuzz faults soak clean

demo: $(VENV)/demo.stamp  ## replay a street through the whole agent and a real broker
	$(BIN)/python -m demo

test: $(VENV)/dev.stamp  ## every test
	$(BIN)/python -m pytest

check: $(VENV)/dev.stamp  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fuzz: $(VENV)/dev.stamp  ## broken inputs for every parser (make fuzz COUNT=1000000)
	$(BIN)/python -m fuzz --count $(or $(COUNT),20000)

faults: $(VENV)/dev.stamp  ## break everything around the agent (make faults FAULTS=200 DEAF=3 SEED=2)
	$(BIN)/python -m faults --faults $(or $(FAULTS),40) --deaf $(or $(DEAF),1) --seed $(or $(SEED),1)

soak: $(VENV)/dev.stamp  ## hours of sound through the live path, with its memory (make soak HOURS=24)
	$(BIN)/python -m faults --soak $(or $(HOURS),24)

benchmark: $(VENV)/dev.stamp  ## the agent beside YAMNet and OpenL3, and live (make benchmark YAMNET=FILE LIVE=600)
	$(BIN)/python -m benchmarks $(if $(YAMNET),--yamnet $(YAMNET)) $(if $(LIVE),--live $(LIVE))

# Once more the recipe of the default model, over some hours. EPOCHS=1 runs all steps in about an hour.
DATA = --us8k $(US8K) --esc10 $(ESC10)
TRAINING = $(DATA) --teacher $(YAMNET) $(if $(EPOCHS),--epochs $(EPOCHS))
BUILD := build

model: $(VENV)/dev.stamp  ## the default model anew (make model US8K=DIR ESC10=DIR YAMNET=FILE)
	$(if $(and $(US8K),$(ESC10),$(YAMNET)),,$(error expected US8K=DIR ESC10=DIR YAMNET=FILE))
	$(BIN)/urbansound-model crossvalidate $(TRAINING) --peer $(YAMNET) --out $(BUILD)/crossvalidation
	$(BIN)/urbansound-model build $(TRAINING) --results $(BUILD)/crossvalidation --out $(BUILD)/model
	$(BIN)/urbansound-model tune --model $(BUILD)/model --crossvalidation $(BUILD)/crossvalidation --calibrated $(DATA) \
	  --budget 4 --hours 8

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	@tools/system-packages.sh python3-venv
	@echo "Making a virtual environment in $(VENV)"
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	@tools/system-packages.sh libportaudio2 mosquitto
	@echo "Installing the agent and matplotlib into $(VENV)"
	$(INSTALL) '.[plot]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	@tools/system-packages.sh gcc libc6-dev libportaudio2 libasound2-plugins libusb-1.0-0 mosquitto openssl pulseaudio pulseaudio-utils strace
	@echo "Installing the agent, TensorFlow for model_export, and the tools into $(VENV)"
	$(INSTALL) '.[plot,export,cluster,dev]'
	@touch $@
