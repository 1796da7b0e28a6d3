# `make` alone lists what there is.
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test gpu reliability fuzz lint typecheck check clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/lcpdn: pyproject.toml
	python3 -m venv $(VENV)
	$(BIN)/pip install --upgrade-strategy only-if-needed -e '.[dev]'
	@touch $@

setup: $(BIN)/lcpdn ## Make .venv and install the package with its development tools

demo: setup ## Train LCPDN on phantom images, test it, leave a TensorBoard run and a picture sheet
	$(BIN)/lcpdn fit --config configs/demo.yaml
	$(BIN)/lcpdn test --ckpt_path "$$(ls -t runs/phantom/lcpdn/*/best.ckpt | head -n 1)"
	@echo "Curves and sheets: $(BIN)/tensorboard --logdir runs"

test: setup ## Run the tests, on the CPU whether there is a GPU or not
	CUDA_VISIBLE_DEVICES= $(BIN)/pytest -n auto

gpu: setup ## Run every method on a GPU: does it find what it finds on the CPU, and repeat itself?
	$(BIN)/pytest --no-cov tests/test_gpu.py

reliability: setup ## Kill a run 20 times at random moments, and see that it ends alike
	LCPDN_KILLS=20 $(BIN)/pytest tests/test_resume.py --no-cov -s

fuzz: setup ## Damage 10,000 files of each kind (half an hour on 2 cores), and see that only our errors come
	LCPDN_FUZZ_CASES=10000 $(BIN)/pytest -n auto --no-cov tests/fuzz

lint: setup ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: setup ## Check types
	$(BIN)/mypy

check: lint typecheck test ## Everything that CI runs

clean: ## Remove the environment and caches; data and runs stay
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
