# Each target first makes .venv with the pinned stack for this machine; the second time that is a check of a moment.

PROFILE ?=
# Not from the environment, where such names mean other things.
MODEL =
TP =
QPS =
STACK ?= auto
TESTS ?= tests tests_faults/quick
FAULTS ?= tests_faults

export PYTHON HASHES

# An option and its value, quoted; nothing where there is no value.
option = $(if $(2),$(1) '$(subst ','\'',$(2))')

.PHONY: help report test test-gpu test-faults lab doctor setup

help:
	@echo "make report              measure on this machine and write a report (PROFILE=b200-tp8 for another profile;"
	@echo "                         MODEL=, TP=4,8 and QPS=1,5 for another load)"
	@echo "make test                run the tests (TESTS=tests/routing for some of them)"
	@echo "make test-gpu            run the tests that need a GPU (one H100, H200 or B200 with NVIDIA MPS is enough)"
	@echo "make test-faults         inject every fault of docs/faults.md and write its table anew"
	@echo "make lab                 open the notebooks in JupyterLab"
	@echo "make doctor              say what this machine can run, and why not what it can't"
	@echo "make setup               only install (STACK=cpu or gpu against what the machine suggests)"

report: setup
	@.venv/bin/symmlib run $(PROFILE) $(call option,--model,$(MODEL)) $(call option,--tp,$(TP)) $(call option,--qps,$(QPS))

test: setup
	@scripts/browser.sh
	@.venv/bin/python -m pytest $(TESTS)

test-gpu: setup
	@.venv/bin/python -m pytest tests_gpu

test-faults: setup
	@rm -f reports/faults.jsonl
	@SYMMLIB_FAULTS=$(CURDIR)/reports/faults.jsonl .venv/bin/python -m pytest $(FAULTS)
	@.venv/bin/python scripts/fault_table.py reports/faults.jsonl

lab: setup
	@.venv/bin/symmlib lab

doctor: setup
	@.venv/bin/symmlib doctor

setup:
	@scripts/setup.sh $(STACK)
