.PHONY: setup demo check test lint
bin := .venv/bin

setup:
	@scripts/setup

demo: setup
	@$(bin)/standby demo $(ARGS)

lint: setup
	$(bin)/ruff check src tests
	$(bin)/ruff format --check src tests
	$(bin)/mypy
	$(bin)/lint-imports --no-cache

# The fast part: under 90 seconds, starts no guest.
check: lint
	$(bin)/python -m tests -q -m "not slow and not guest"

# Everything, on real QEMU, qemu-storage-daemon and nbdkit.
test: lint
	$(bin)/python -m tests
