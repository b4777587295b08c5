# Every command of the project. `make help` lists them.

VENV ?= .venv
PYTHON ?= python3
# cpu or gpu: which vLLM and torch `make setup` installs.
DEVICE ?= cpu
# Definitions of custom resources (KubeRay, Gateway API, Prometheus operator) that manifests are
# held to; `make crds` fetches them. Without them those tests are skipped.
CRDS ?= $(or $(COTERIE_CRDS),$(firstword $(wildcard build/crds ../shared/crds)))
export COTERIE_CRDS := $(abspath $(CRDS))

BIN := $(VENV)/bin
STAMP := $(VENV)/.coterie-$(DEVICE)
INSTALL := infra/install
ROOMS := cache coterie deployments experts infra router
# Files that import vLLM and torch are passed over: each worker would load them for nothing.
# More workers than two cores, as the tests wait half of the time.
UNIT_TESTS := -m "not cluster and not model and not gpu and not slow" -n 3 --dist worksteal \
	--ignore=tests/cluster --ignore=tests/deployments/engine/on_vllm \
	--ignore=tests/deployments/experts/on_vllm --ignore=tests/deployments/drafts/on_vllm
# Whole files, as their engines are; in the order that `tests/conftest.py` gives them.
MODEL_TESTS := -m "model and not cluster and not gpu and not alone and not slow" -n 2 --core-each \
	--dist loadfile --no-loadscope-reorder
# One after the other: two clusters at a time take longer, as both have more to do than cores.
CLUSTER_TESTS := -m "(cluster or gpu or alone) and not slow"
SLOW_TESTS := -m slow
PROTOS := coterie/v1/inference.proto deployments/kserve/grpc_service.proto

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

.PHONY: help
help: ## Say what each target does
	@printf 'Coterie serves large language models on a Ray cluster.\n\n'
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1|\2/p' Makefile | \
		while IFS='|' read -r target text; do printf '%-18s %s\n' "$$target" "$$text"; done
	@printf '\nSettings: VENV=%s PYTHON=%s DEVICE=%s CRDS=%s\n' '$(VENV)' '$(PYTHON)' '$(DEVICE)' '$(CRDS)'

.PHONY: setup
setup: $(STAMP) ## Make the virtual environment and install everything into it

$(STAMP): pyproject.toml $(wildcard $(INSTALL)/*.txt) $(INSTALL)/install.sh $(INSTALL)/verify.py
	@$(INSTALL)/install.sh '$(VENV)' '$(PYTHON)' '$(DEVICE)'
	@touch '$@'

.PHONY: demo
demo: setup ## Start a cluster on this machine, talk to a real model, stop it
	@trap '$(BIN)/coterie down' EXIT; \
	trap 'exit 130' INT TERM; \
	$(BIN)/coterie up; \
	$(BIN)/coterie chat --temperature 0 --message "Why is the sky blue? Answer in two sentences."

# mypy keeps one core busy, so the others run beside it.
.PHONY: check
check: setup ## Style, types, import direction and unit tests: what CI runs first
	@$(MAKE) --no-print-directory --jobs=2 style types imports units

.PHONY: style types imports units
style: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

imports: setup
	$(BIN)/lint-imports

units: setup
	$(BIN)/pytest $(UNIT_TESTS)

.PHONY: test
test: check ## What CI runs: `check`, real models, real clusters, a GPU where there is one
	$(BIN)/pytest $(MODEL_TESTS) --durations=10
	$(BIN)/pytest $(CLUSTER_TESTS) --durations=20

.PHONY: test-slow
test-slow: setup ## Tests that take longer than they are worth in CI: before a release, or every night
	$(BIN)/pytest $(SLOW_TESTS) --durations=20

# What says whether it can be operated; the figures are in README.md.
.PHONY: manifests
manifests: setup ## Hold manifests to all that will read them, and let slips be found
	$(BIN)/pytest tests/deployments/kubernetes

TRACE ?=
.PHONY: autoscaling
autoscaling: setup ## Let engines and nodes come and go, and compare policies on a TRACE; about 5 minutes
	@mkdir -p build
	$(BIN)/python -m tests.bench.autoscaling --json build/autoscaling.json --plot build/autoscaling.png
	$(if $(TRACE),$(BIN)/python -m tests.bench.scaling_policies '$(TRACE)' --json build/scaling_policies.json)

.PHONY: telemetry
telemetry: setup ## Traces, metrics, alerts and dashboards with real receivers; what they cost
	$(BIN)/pytest tests/infra/observability tests/infra/telemetry tests/cluster/test_telemetry.py
	$(BIN)/python -m tests.bench.telemetry_cost

.PHONY: image-steps
image-steps: setup ## Execute the image's steps without a daemon (buildah, debootstrap); about 6 minutes
	$(BIN)/pytest tests/infra/image

.PHONY: fuzz
fuzz: setup ## Send 100,000 garbled inputs to every door and reader; about an hour
	@mkdir -p build
	$(BIN)/python -m tests.fuzz --json build/fuzz.json

.PHONY: chaos
chaos: setup ## Let every kind of process fail under load, and report what is lost; about an hour
	@mkdir -p build
	$(BIN)/python -m tests.chaos --json build/chaos.json

.PHONY: crds
crds: ## Fetch the definitions that manifests are held to, into build/crds
	@infra/kubernetes/fetch-crds.sh build/crds

.PHONY: format
format: setup ## Put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: proto
proto: setup ## Make the gRPC stubs from the .proto files
	$(BIN)/python -m grpc_tools.protoc --proto_path=. \
		--python_out=. --pyi_out=. --grpc_python_out=. $(PROTOS)

# What builds images: docker, podman, buildah.
BUILDER ?= docker
BASE_IMAGE ?= rayproject/ray:2.60.0-py311-$(if $(filter gpu,$(DEVICE)),cu130,cpu)

.PHONY: image
image: ## Build the image for Kubernetes, DEVICE=cpu or gpu
	$(BUILDER) build -f infra/image/Dockerfile --build-arg DEVICE=$(DEVICE) \
		--build-arg BASE_IMAGE=$(BASE_IMAGE) -t coterie:$(DEVICE) .

.PHONY: lock
lock: ## Write all pinned versions from a fresh installation
	@$(INSTALL)/lock.sh build/lock '$(PYTHON)'

.PHONY: clean
clean: ## Remove caches and build output, but not the virtual environment
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
	find $(ROOMS) tests -name __pycache__ -type d -prune -exec rm -rf {} +
