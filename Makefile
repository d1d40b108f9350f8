# Commands with all their set-up: `make demo`, `make test` (the quick suite), `make test-all`, `make lint`;
# `make docker` builds images where docker is.
PYTHON ?= $(shell for p in python3 python3.12 python3.13 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
comma := ,
# CUDA 13 where NVIDIA's driver (580) and all cards (compute capability 7.5) are new enough, else CUDA 12.
# What is installed stays, since JAX takes one of the two only. `make CUDA=cuda` (12), `CUDA=cuda13` and
# `CUDA=` choose by hand.
HAS = $(wildcard $(VENV)/lib/python3*/site-packages/jax_cuda$(1)_plugin)
FITS = $(shell nvidia-smi --query-gpu=driver_version,compute_cap --format=csv,noheader 2>/dev/null | \
	awk -F ', *' '$$1 + 0 < 580 || $$2 + 0 < 7.5 { old = 1 } END { if (NR) print old ? "cuda" : "cuda13" }')
CUDA ?= $(if $(call HAS,12),cuda,$(if $(call HAS,13),cuda13,$(FITS)))
EXTRAS := dev$(if $(CUDA),$(comma)$(CUDA))
OUT ?= runs/demo

.PHONY: demo test test-all browser lint docker

demo: $(VENV)/installed
	$(VENV)/bin/python -m egs_jax demo --out "$(OUT)" $(if $(VIDEO),--video "$(VIDEO)") $(if $(AUDIO),--audio "$(AUDIO)")

test: $(VENV)/installed  # lint is among the tests
	$(VENV)/bin/python -m pytest -m "not slow"

# What the tests of the page need: Playwright, and the system's Chromium if there is none.
browser: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[browser]"
	command -v chromium || command -v chromium-browser || command -v google-chrome || \
		$(shell [ "$$(id -u)" = 0 ] || echo sudo) apt-get install -y --no-install-recommends chromium

# Everything (`make browser` first); the programs that XLA compiled twice are listed and are a fault.
test-all: $(VENV)/installed
	rm -rf .cache/compile_log
	COMPILE_LOG=$(CURDIR)/.cache/compile_log PYTHONPATH=$(CURDIR)/tests/compile_log \
		$(VENV)/bin/python -m pytest
	$(VENV)/bin/python tests/compile_log/sitecustomize.py .cache/compile_log

lint: $(VENV)/installed
	$(VENV)/bin/python tests/lint.py

# egs-jax:cpu and, for NVIDIA's container toolkit, egs-jax:gpu.
docker:
	@command -v docker >/dev/null || { echo "make: docker is not installed" >&2; exit 2; }
	docker build --build-arg 'EXTRAS=' --tag egs-jax:cpu .
	docker build --build-arg 'EXTRAS=[$(or $(CUDA),cuda)]' --tag egs-jax:gpu .

$(VENV)/installed: requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$(EXTRAS)]"
	touch $@
