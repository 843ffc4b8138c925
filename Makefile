# One word per job. A fresh machine needs python3 >= 3.11 with venv and pip, make, and a package index.
#   make env     the environment in .venv (another place: VENV=...), with the command .venv/bin/desd
#   make test    the whole suite but what takes minutes; make soak: the rest
#   make demo    the whole story on synthetic volumes; on your own: make demo DATA=path/to/Task04_Hippocampus
#   make pack    both bundles as the zoo wants them, checked, in dist/
#   make lint    style and types;  make bench: speed and memory, as ratios
#   make gpu     what is promised of a GPU, in ten minutes; in an environment that is there: make gpu PY=python

VENV ?= .venv
PYTHON ?= python3
DATA ?=
OUTPUT ?= demo

PY ?= $(VENV)/bin/python
.DEFAULT_GOAL := help
.PHONY: help env test soak demo pack lint bench gpu

help:
	@sed -n '2,7s/^#   /  /p' Makefile

# Stamps make a second call quick; a changed list of requirements installs again.
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev
DESD := $(VENV)/bin/desd

$(RUN_STAMP): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("error: $(PYTHON) is %d.%d; Python 3.11 or newer is needed: make PYTHON=..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(DEV_STAMP): $(RUN_STAMP) requirements-dev.txt requirements-nnunet.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-nnunet.txt
	@touch $@

# Not by pip install -e: an installed package would hide the one that `make pack` packs and then tries out.
$(DESD): $(RUN_STAMP)
	@printf '#!/bin/sh\nPYTHONPATH="%s" exec "%s" -m desd_tools "$$@"\n' "$(CURDIR)" "$(abspath $(PY))" > $@
	@chmod +x $@

env: $(DEV_STAMP) $(DESD)

# Two workers of one thread each: threads beyond the cores are slower than none. A file's tests share their runs.
test: env
	OMP_NUM_THREADS=1 $(PY) -m pytest -m "not soak" --timeout 600 -n 2 --dist loadfile

# Its table is results/soak.md
soak: env
	OMP_NUM_THREADS=1 $(PY) -m pytest -m soak --timeout 600 --junitxml=results/soak.xml; status=$$?; \
	$(PY) tests/helpers/soak_table.py results/soak.md results/soak.xml && exit $$status

demo: $(DESD)
	$(DESD) demo $(if $(DATA),--data "$(DATA)") --output "$(OUTPUT)"

pack: env
	OMP_NUM_THREADS=1 $(DESD) pack bundles/desd_pretrain bundles/desd_seg_finetune --output dist --checks true

lint: env
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy desd_components desd_tools
	$(VENV)/bin/lint-imports

bench: env
	OMP_NUM_THREADS=1 $(PY) -m benchmarks

# PY=... names an environment that has torch and the rest: nothing is installed.
gpu: $(if $(filter file,$(origin PY)),$(RUN_STAMP))
	$(PY) -m benchmarks gpu --output gpu
