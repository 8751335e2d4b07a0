# Everything a newcomer needs is `make demo` and `make test`; `make help` lists the rest.

CONFIG := configs/demo.yaml
CORES ?= all
RETRY ?=
UPGRADE ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo run resume test lint setup lock schema environment

help: ## list these targets
	@sed -n 's/^\([a-z]*\): .*## \(.*\)/  make \1|\2/p' Makefile | awk -F '|' '{ printf "%-16s%s\n", $$1, $$2 }'

demo: environment ## run the demo experiment and write results/demo/report.html
	@$(BIN)/python workflow/launch.py configs/demo.yaml --cores $(CORES)

run: environment ## run an experiment: make run CONFIG=configs/x.yaml CORES=4
	@$(BIN)/python workflow/launch.py $(CONFIG) --cores $(CORES) $(if $(RETRY),--retry-failed)

resume: run ## go on with an interrupted experiment (the same as run)

test: environment ## run the tests
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=15

lint: environment ## check formatting, types and the workflow
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

setup: environment ## build .venv from requirements.lock, if it is not ready
	@echo ".venv is ready: $$($(BIN)/python --version)"

lock: environment ## pin the dependencies of pyproject.toml again (UPGRADE=1: newest versions)
	@$(BIN)/python workflow/scripts/lock.py $(if $(UPGRADE),--upgrade)

schema: environment ## write the JSON schema of experiment files again
	@$(BIN)/python -c 'import json, attrreg.config as c; print(json.dumps(c.json_schema(), indent=2))' \
		> workflow/schemas/experiment.schema.json

environment:
	@sh workflow/scripts/setup.sh
