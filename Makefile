# Two commands do everything on a fresh machine: `make quickstart` and `make test`. Both make what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Everything, for tests and linters; and what the quickstart needs, which is two thirds of it. Everything includes that.
STAMP := $(VENV)/.installed
QUICKSTART := $(VENV)/.quickstart
# Tests run side by side; each process has a Ray of its own, so more processes than cores gain nothing.
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

.PHONY: docs quickstart oracles test test-all test-cluster docker-smoke bench bench-gpu check lint lint-js smoke gl clean help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "raybc needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)

INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[all,dev]'
	@touch $(QUICKSTART) $@

$(QUICKSTART): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[robosuite,dashboard]'
	@touch $@

gl:  ## offscreen rendering: installed where we may (root with apt), named where we may not
	@if ldconfig -p 2>/dev/null | grep -q libEGL.so.1 && ls /usr/lib/*/dri/*swrast* >/dev/null 2>&1; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends libegl1 libgl1-mesa-dri; } >/dev/null 2>&1 \
		|| echo "videos: could not install libegl1 and libgl1-mesa-dri; the run goes on without video"; \
	else echo "videos: need libegl1 and libgl1-mesa-dri (Debian: sudo apt-get install libegl1 libgl1-mesa-dri)"; fi

quickstart: $(QUICKSTART) gl  ## set up what it needs, then run the default sweep (goes on where it was, if it was stopped)
	$(BIN)/python -m raybc.sweep --resume=auto

# Libraries that tests compare with, beside the environment. They contradict our versions, so only these tests see them (docs/data.md).
ORACLES := d4rl==1.1 robomimic==0.3.0 termcolor==3.3.0 zarr==3.1.6 donfig==0.8.1.post1 google-crc32c==1.9.0
# In a folder of their own, which only tests of image encoders search (tests/helpers.py).
IMAGE_ORACLES := timm==1.0.31 torchvision==0.28.0
# LeRobot and what importing its policies needs, which only processes of tests see (tests/lerobot_oracle.py).
LEROBOT_ORACLE := lerobot==0.4.4 datasets==4.4.1 draccus==0.10.0 einops==0.8.1 mergedeep==1.3.4 typing-inspect==0.9.0 \
	mypy-extensions==1.1.0 pyyaml-include==1.4.1 toml==0.10.2 dill==0.4.0 multiprocess==0.70.18 xxhash==4.1.0 \
	jsonlines==4.0.0 deepdiff==8.6.1 orderly-set==5.5.0 termcolor==3.3.0 pyserial==3.5 accelerate==1.15.0
oracles: $(VENV)/oracles/.installed
$(VENV)/oracles/.installed: $(STAMP) Makefile
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/oracles $(ORACLES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/oracles/images $(IMAGE_ORACLES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/oracles/lerobot $(LEROBOT_ORACLE)
	@touch $@

test: $(STAMP) oracles  ## set up, then run the tests (slow ones: test-all)
	$(PYTEST) -q -m "not slow" tests

test-all: $(STAMP) oracles  ## every test
	$(PYTEST) -q tests

test-cluster: $(STAMP)  ## `ray up` for real on machines made of namespaces (root, openssh-server, rsync, iproute2)
	$(BIN)/python -m tests.cluster.prove

lint: $(STAMP)  ## ruff, mypy and spelling (JavaScript: lint-js)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	$(BIN)/codespell

# npm writes this file when it has installed what package-lock.json says.
NODE_STAMP := node_modules/.package-lock.json
$(NODE_STAMP): package.json package-lock.json
	@command -v npm >/dev/null || { echo "lint-js: npm is missing; install Node.js 20.19 or newer"; exit 1; }
	npm ci --no-audit --no-fund
	@touch $@

lint-js: $(NODE_STAMP)  ## ESLint and Prettier on the JavaScript (needs node)
	npm run --silent lint

DOCS_STAMP := $(VENV)/.docs-installed
$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

docs: $(DOCS_STAMP)  ## the documentation site in build/site/html, with its links checked
	$(BIN)/python tools/site.py

smoke: $(STAMP)  ## a whole sweep on the built-in point mass, about a minute
	rm -rf runs/smoke && $(BIN)/python -m raybc.sweep sweeps/pointmass.yaml --out runs/smoke
	test -s runs/smoke/report.html && test -s runs/smoke/winner/policy.safetensors

docker-smoke:  ## build the CPU image and run a small sweep in it (needs Docker)
	@command -v docker >/dev/null || { echo "docker-smoke: docker is missing (https://docs.docker.com/engine/install)"; exit 1; }
	docker build --target cpu -t raybc .
	docker run --rm --entrypoint sh --shm-size=2g raybc -c \
		'test "$$(id -u)" != 0 && raybc --version && raybc sweep /opt/raybc/lib/python3*/site-packages/raybc/sweeps/pointmass.yaml \
		--out /tmp/smoke && test -s /tmp/smoke/report.html'

bench: $(STAMP)  ## timings, side by side; figures belong in benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks.sweep_overhead
	$(BIN)/python -m benchmarks.first_number --repeat 3
	$(BIN)/python -m benchmarks.rollouts
	$(BIN)/python -m benchmarks.racing
	$(BIN)/python -m benchmarks.compare_studies
	$(BIN)/python -m benchmarks.train_throughput
	$(BIN)/python -m benchmarks.policies
	$(BIN)/python -m benchmarks.data
	$(BIN)/python -m benchmarks.pages
	$(BIN)/python -m benchmarks.serving

bench-gpu: $(STAMP)  ## eight minutes on a GPU; without raybc's other packages: python -m benchmarks.gpu --out FILE.json
	mkdir -p runs && $(BIN)/python -m benchmarks.gpu --minutes 8 --out runs/gpu.json

check: lint test smoke  ## what CI runs

clean:  ## the virtual environment and caches (not runs/)
	rm -rf $(VENV) node_modules .pytest_cache .mypy_cache .ruff_cache *.egg-info
