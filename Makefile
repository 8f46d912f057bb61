# Planish: `make help` lists what there is.
# MODEL=PATH|HUB_ID picks another model than the small one that is fetched.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
PLANISH := $(TARGET)/release/planish
export MODEL

.PHONY: help build demo test test-clients test-python bench bench-serving lint

help:  ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build:  ## the release binary; with GPU kernels if a GPU is here, or by CUDA=1
	@if [ -n "$(CUDA)" ] || [ -e /proc/driver/nvidia ]; then scripts/fetch_nvcc.sh >/dev/null; fi
	$(CARGO) build --release --package planish-cli

demo: build  ## quantize a real model to INT8, compare it with the original, talk to it
	@PLANISH="$(PLANISH)" scripts/demo.sh

test:  ## everything that CI runs
	@scripts/test.sh

test-clients: build  ## real programs against a running server: SDKs, frameworks, lm_eval, schemathesis, a browser, nginx
	@PLANISH="$(PLANISH)" scripts/test_clients.sh

test-python: build  ## the Python package: built and installed by pip, then its tests
	@PLANISH="$(PLANISH)" scripts/test_python.sh

bench: build  ## tokens per second of the demo's model and of INT8 twins in demo/, and every kernel
	@PLANISH="$(PLANISH)" scripts/bench.sh

bench-serving: build  ## a server under load, abuse and signals, with the demo's model in INT8
	@scripts/measure_serving.py "$(PLANISH)" "$(or $(INT8),demo/SmolLM2-135M-Instruct-INT8)"

lint:  ## format, clippy and the house rules, without tests
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) xtask tidy
