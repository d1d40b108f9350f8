# Commands with all their set-up: `make demo`, `make test` (the quick suite), `make test-all`, `make lint`.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
EXTRAS := dev$(shell command -v nvidia-smi >/dev/null 2>&1 && echo ,cuda)
OUT ?= runs/demo

.PHONY: demo test test-all lint

demo: $(VENV)/installed
	$(VENV)/bin/python -m egs_jax demo --out "$(OUT)" $(if $(VIDEO),--video "$(VIDEO)") $(if $(AUDIO),--audio "$(AUDIO)")

test: $(VENV)/installed  # lint is among the tests
	$(VENV)/bin/python -m pytest -m "not slow"

# Everything; the programs that XLA compiled twice are listed and are a fault.
test-all: $(VENV)/installed
	rm -rf .cache/compile_log
	COMPILE_LOG=$(CURDIR)/.cache/compile_log PYTHONPATH=$(CURDIR)/tests/compile_log \
		$(VENV)/bin/python -m pytest
	$(VENV)/bin/python tests/compile_log/sitecustomize.py .cache/compile_log

lint: $(VENV)/installed
	$(VENV)/bin/ruff check egs_jax kernels experiments tests
	$(VENV)/bin/ruff format --check egs_jax kernels experiments tests
	$(VENV)/bin/mypy

$(VENV)/installed: requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$(EXTRAS)]"
	touch $@
