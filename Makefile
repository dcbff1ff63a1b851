.PHONY: setup demo check test lint bench
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

# The fast part: under 90 seconds, starts no guest.
check: lint
	$(bin)/python -m tests -q -m "not slow and not guest"

# Everything, on real QEMU, qemu-storage-daemon and nbdkit.
test: lint
	$(bin)/python -m tests

# Figures, each beside its rival in the same run; about two minutes.
bench: setup
	$(bin)/python benchmarks/initial.py
	$(bin)/python benchmarks/opening.py
	$(bin)/python benchmarks/reading.py
	$(bin)/python benchmarks/serving.py
	$(bin)/python benchmarks/stores.py
