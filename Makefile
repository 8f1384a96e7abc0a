PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_WORKERS ?= 2
UT_INTERACTION ?= data/ut_interaction

.DEFAULT_GOAL := help
.PHONY: help install demo demo-figures demo-study ut-interaction-figures ut-interaction-study test test-slow test-gpu lint bench bench-gpu bench-reader bench-lazy bench-distillation bench-features bench-resolution bench-streams bench-prepare results
.SECONDARY:
SHELL := bash
.SHELLFLAGS := -e -o pipefail -c

# The demo: every step is a command that a user could type, and is left out where its result is there. Runs go side by
# side, each on one thread, so that figures are the same however many there are; a line begins with the name of its run.
JOBS ?= 2
NAMED = 2>&1 | awk '{ print "$*: " $$0; fflush() }'
STREAMS := mv residual iframe
UNSEEN = data/demo/test/*/*_0000?.mp4

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-24s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

install: $(VENV)/.installed ## make the virtual environment

demo: $(VENV)/.installed ## make data, train, distil, combine, predict, report (13 to 17 minutes on 2 cores); more cores: JOBS=8
	@OMP_NUM_THREADS=1 $(MAKE) --no-print-directory -j $(JOBS) runs/demo/report.html
	@echo
	@echo "The report is in $(abspath runs/demo/report.html)"

data/demo/manifest.json: | $(VENV)/.installed
	$(BIN)/streamkd demo-data --root data/demo

runs/demo/%/fit.json: configs/demo/%.yaml | data/demo/manifest.json
	$(BIN)/lightning fit --config $< $(NAMED)
	@test -s $@ && touch $@

runs/demo/fusion/fit.json runs/demo/pkd/fit.json: $(STREAMS:%=runs/demo/%/fit.json)
runs/demo/wise/fit.json: runs/demo/pkd/fit.json
runs/demo/reskd/fit.json: runs/demo/reskd_teacher/fit.json
runs/demo/p_stream/fit.json: runs/demo/flow/fit.json
runs/demo/ip_tsn/fit.json: runs/demo/iframe/fit.json runs/demo/p_stream/fit.json

runs/demo/%/test.json: runs/demo/%/fit.json
	$(BIN)/lightning test --config configs/demo/$*.yaml $(NAMED)

runs/demo/fusion/predictions.jsonl: runs/demo/fusion/fit.json
	$(BIN)/lightning predict --config configs/demo/fusion.yaml \
		--data.predict_paths "[$$(echo $(UNSEEN) | tr ' ' ',')]"

TESTED := $(STREAMS) fusion pkd wise reskd_teacher reskd_baseline reskd flow p_stream ip_tsn

runs/demo/report.html: $(TESTED:%=runs/demo/%/test.json) runs/demo/fusion/predictions.jsonl
	$(BIN)/streamkd report --runs runs/demo --videos "[$$(ls $(UNSEEN) | sed -n '1p;6p;8p' | paste -sd,)]"

# Experiments of a data set, in order, and their results beside the paper's. What is done is not repeated.
CHAINS := ucf101 hmdb51 activitynet fcvid mini-kinetics ssv2 kinetics400 kinetics-subset
.PHONY: $(CHAINS) $(CHAINS:%=%-dry)
reproduce = $(BIN)/streamkd reproduce $(subst -,_,$(1)) $(if $(DATA),--data '$(DATA)') $(if $(SPLIT),--split $(SPLIT)) \
	$(if $(SEED),--seed $(SEED)) $(if $(FRACTION),--fraction $(FRACTION)) \
	$(if $(EXPERIMENTS),--experiments '[$(EXPERIMENTS)]') $(if $(OPTIONS),--options '{$(OPTIONS)}')

ucf101: ## PKD, WISE, IP TSN on UCF-101: DATA=its folder SPLIT=1; FRACTION=0.01: a rehearsal; ucf101-dry: commands alone
hmdb51: ## the same on HMDB-51
kinetics-subset: ## IP TSN on a part of Kinetics-400
activitynet: ## ResKD on ActivityNet
fcvid: ## ResKD on FCVID
mini-kinetics: ## ResKD on Mini-Kinetics
ssv2: ## ResKD on Something-Something V2
kinetics400: ## ResKD on Kinetics-400, SlowOnly and Swin

$(CHAINS): $(VENV)/.installed
	@$(call reproduce,$@)

$(CHAINS:%=%-dry): $(VENV)/.installed
	@$(call reproduce,$(@:-dry=)) --dry_run

results: $(VENV)/.installed ## what finished runs came to, into configs/README.md
	$(BIN)/streamkd results --output configs/README.md

demo-figures: $(VENV)/.installed ## the demo over 3 seeds, with the I-frame network at 56 pixels too (25 minutes)
	$(BIN)/python tests/benchmarks/demo_figures.py

demo-study: demo-figures ## every distillation beside its baselines, 3 seeds
	$(BIN)/python tests/benchmarks/distillation_study.py demo --curvature cross-entropy progressive
	$(BIN)/python tests/benchmarks/resolution_study.py
	$(BIN)/python tests/benchmarks/flow_study.py
	$(BIN)/python tests/benchmarks/team_study.py

ut-interaction-study: ut-interaction-figures ## the same on UT-Interaction, 5 folds
	$(BIN)/python tests/benchmarks/distillation_study.py ut_interaction --root $(UT_INTERACTION)

ut-interaction-figures: $(VENV)/.installed ## 60 real clips, 5 folds, 3 seeds (55 minutes at most); their folder: UT_INTERACTION
	$(BIN)/python tests/benchmarks/ut_interaction_figures.py --root $(UT_INTERACTION)

test: $(VENV)/.installed ## run the tests (8 minutes at most on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(PYTEST_WORKERS)

test-slow: $(VENV)/.installed ## run the long proofs: a kill at every step, 100 kills at random, 10,000 reads
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow -n $(PYTEST_WORKERS)

test-gpu: $(VENV)/.installed ## what needs a GPU; chains and resumption on it, in three precisions
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(PYTEST_WORKERS) tests/test_gpu.py
	for precision in 32-true 16-mixed bf16-mixed; do \
	    STREAMKD_TEST_TRAINER="{\"accelerator\": \"gpu\", \"precision\": \"$$precision\", \"deterministic\": true}" \
	    OMP_NUM_THREADS=1 $(BIN)/pytest -n $(PYTEST_WORKERS) tests/test_reproduction.py tests/lightning_modules/test_resume.py; \
	done

lint: $(VENV)/.installed ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed ## measure loader, training, inference and scaling, into one table (after `make demo`, 23 minutes); some: PARTS=loader
	$(BIN)/python tests/benchmarks/bench.py $(PARTS)

bench-gpu: $(VENV)/.installed ## training and inference on a GPU by precision and layout; whether the loader keeps up
	$(BIN)/python tests/benchmarks/bench_gpu.py

bench-reader: $(VENV)/.installed ## time the reader against bare decoding, decord and PyAV; VIDEOS="a.mp4 b.avi": on them
	$(BIN)/python tests/benchmarks/bench_reader.py $(VIDEOS)

bench-distillation: $(VENV)/.installed ## time a distillation step and run against what they have to compute
	$(BIN)/python tests/benchmarks/bench_distillation.py

bench-features: $(VENV)/.installed ## time an epoch from stored features against what is left to compute, and one from videos
	$(BIN)/python tests/benchmarks/bench_frozen_features.py

bench-resolution: $(VENV)/.installed ## time a cross-resolution step, and inference by resolution
	$(BIN)/python tests/benchmarks/bench_resolution.py

bench-streams: $(VENV)/.installed ## time the P-stream's input against optical flow, two networks against three; VIDEOS as above
	$(BIN)/python tests/benchmarks/bench_streams.py $(VIDEOS)

bench-prepare: $(VENV)/.installed ## time `streamkd prepare` against a bare decode, scale, encode loop; VIDEOS="a.mp4 b.avi": on them
	$(BIN)/python tests/benchmarks/bench_prepare.py $(VIDEOS)

bench-lazy: $(VENV)/.installed ## time lazy exits against full inference on the demo's test videos (after configs/demo/pkd.yaml)
	$(BIN)/python tests/benchmarks/lazy_exits.py $(ARGUMENTS)
