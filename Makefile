.PHONY: setup demo check test lint bench soak
bin := .venv/bin

setup:
	@scripts/setup

demo: setup
	@$(bin)/standby demo $(ARGS)

lint: setup
	$(bin)/ruff check src tests benchmarks
	$(bin)/ruff format --check src tests benchmarks
	$(bin)/mypy
	$(bin)/lint-imports --no-cache

# Tests run in so many processes, a file at a time; most of them wait for something. 0: in one, in order.
JOBS ?= 2
tests := $(bin)/python -m tests -n $(JOBS) --dist loadfile --no-loadscope-reorder

# The fast part: under 90 seconds, starts no guest.
check: lint
	$(tests) -q -m "not slow and not guest"

# Everything, on real QEMU, qemu-storage-daemon and nbdkit.
test: lint
	$(tests)

# Machines, agents and stores that fail at random, then every point checked; SEED repeats a run.
MINUTES ?= 30
soak: setup
	$(bin)/python -m tests.replication.soak $(MINUTES) $(SEED)

# Figures, each beside its rival in the same run; about four minutes.
bench: setup
	$(bin)/python benchmarks/host.py --machines 20 --busy 2 --minutes 1
	$(bin)/python benchmarks/initial.py
	$(bin)/python benchmarks/opening.py
	$(bin)/python benchmarks/reading.py
	$(bin)/python benchmarks/serving.py
	$(bin)/python benchmarks/precopy.py
	$(bin)/python benchmarks/stores.py
