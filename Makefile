# Two commands matter: `make demo` and `make test`. Both set up what they need in .venv and nowhere else.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
DISTS  := core enclave verify host image sim
STAMP  := $(VENV)/.ready

.PHONY: setup demo test check test-image image-repro rig lock clean

setup: $(STAMP)

$(STAMP): requirements-dev.lock enclave/requirements.lock $(DISTS:%=%/pyproject.toml)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(0 if sys.version_info[:2] == (3, 11) else "adytum needs Python 3.11: make PYTHON=/path/to/python3.11")'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(DISTS:%=-e ./%)
	@touch $@

demo: setup
	@$(BIN)/adytum demo

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not image"

test-image: setup
	$(BIN)/python -m pytest -m image --durations=5

image-repro: setup
	$(BIN)/python -m pytest image/tests/test_rig_image.py -m image -k byte_equal

rig: setup
	$(BIN)/adytum image rig

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(DISTS:%=%/src)
	$(BIN)/lint-imports --no-cache

lock: setup
	$(BIN)/uv pip compile -q --generate-hashes --python-version 3.11 --no-emit-index-url enclave/requirements.in -o enclave/requirements.lock
	$(BIN)/uv pip compile -q --generate-hashes --python-version 3.11 --no-emit-index-url -c enclave/requirements.lock requirements-dev.in -o requirements-dev.lock

clean:
	rm -rf $(VENV) .cache out .mypy_cache .ruff_cache
