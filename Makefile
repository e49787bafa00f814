# make study        set up .venv (once), then run the default study on the best device
# make test         set up .venv (once), then lint, type-check and test
# make test-slow    the tests of more than ten seconds each, which make test leaves out and .ci/run has too
# make test-compat  the same code beside the oldest supported Triton, in .venv-compat
# make test-scale   runs on a Ray cluster of this machine, in .venv-scale; .ci/run has them too where pip can get Ray
# make test-clients real training frameworks with our classes, in .venv-clients; writes the table of docs/clients.md
# make clean        remove the environments and every cache; runs/ stays
#
# PYTHON is the interpreter that makes the environments (3.11 or later); `make clean` before changing it.
# ARGS goes to the study: make study ARGS="--device cpu".

PYTHON ?= python3
ARGS ?=
COMPAT_TRITON := 3.6.0

VENV := .venv
COMPAT := .venv-compat
SCALE := .venv-scale
CLIENTS := .venv-clients
BIN := $(VENV)/bin/python
COMPAT_BIN := $(COMPAT)/bin/python
SCALE_BIN := $(SCALE)/bin/python
CLIENTS_BIN := $(CLIENTS)/bin/python
SOURCES := pyproject.toml constraints.txt

# One thread for each of the two workers: tests are small, and oversubscribed threads slow them down.
PYTEST_ENV := OMP_NUM_THREADS=1
PYTEST_ARGS := -n 2 -q

.PHONY: study test test-slow lint test-compat test-scale test-clients clean
.DELETE_ON_ERROR:

study: $(VENV)/.installed
	@$(BIN) -m lossscale run loss-vs-lr --resume $(ARGS)

# Triton's interpreter and its compiler cannot share a process, so the tests take two.
test: lint
	$(PYTEST_ENV) TRITON_INTERPRET=1 $(BIN) -m pytest $(PYTEST_ARGS) -m "interpreter and not slow"
	$(PYTEST_ENV) $(BIN) -m pytest $(PYTEST_ARGS) -m "not interpreter and not slow"

# Whole campaigns, kills and resumes, functions over all float32: what takes more than ten seconds a test.
test-slow: $(VENV)/.installed
	$(PYTEST_ENV) $(BIN) -m pytest $(PYTEST_ARGS) -m "slow and not interpreter" --ignore=tests/clients --ignore=tests/lossscale/test_ray.py

lint: $(VENV)/.installed
	$(BIN) -m ruff check .
	$(BIN) -m ruff format --check .
	$(BIN) -m mypy

test-compat: $(COMPAT)/.installed
	$(COMPAT_BIN) -c "import kernels, lossscale, bench"
	$(PYTEST_ENV) TRITON_INTERPRET=1 $(COMPAT_BIN) -m pytest $(PYTEST_ARGS) -m interpreter
	$(PYTEST_ENV) $(COMPAT_BIN) -m pytest $(PYTEST_ARGS) -m "not interpreter" -k "static or carried or launches"

# One after the other: each starts processes for all the cores of a small machine.
test-scale: $(SCALE)/.installed
	$(PYTEST_ENV) $(SCALE_BIN) -m pytest -q tests/lossscale/test_ray.py tests/lossscale/test_executors.py tests/lossscale/test_job_files.py

test-clients: $(CLIENTS)/.installed
	$(PYTEST_ENV) CLIENTS_TABLE=$(CURDIR)/docs/clients.md $(CLIENTS_BIN) -m pytest -q tests/clients

clean:
	rm -rf $(VENV) $(COMPAT) $(SCALE) $(CLIENTS) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find kernels lossscale bench tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written only after a complete installation, and removed before a new one begins.
define install
	@rm -f $@
	@$(PYTHON) -c 'import sys; sys.exit("error: PYTHON=$(PYTHON): is older than Python 3.11; give another, PYTHON=python3.12 say" if sys.version_info < (3, 11) else 0)'
	@$(@D)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
endef

$(VENV)/.installed: EXTRAS := report,dev
$(VENV)/.installed: $(SOURCES)
	$(install)
	@touch $@

$(SCALE)/.installed: EXTRAS := dev,scale
$(SCALE)/.installed: $(SOURCES)
	$(install)
	@touch $@

$(CLIENTS)/.installed: EXTRAS := clients,dev
$(CLIENTS)/.installed: $(SOURCES)
	$(install)
	@touch $@

# --no-deps: a CUDA build of torch names another Triton as its own; only the imports and the compiler are tested here.
$(COMPAT)/.installed: EXTRAS := dev
$(COMPAT)/.installed: $(SOURCES)
	$(install)
	$(COMPAT_BIN) -m pip install --disable-pip-version-check --no-deps triton==$(COMPAT_TRITON)
	@touch $@
