"""A process that merges and sweeps, to be killed: python -m tests.replica.merging_child STORE SCRATCH KEEP..."""

from __future__ import annotations

import sys
from pathlib import Path

from standby.objects.directory import DirectoryStore
from standby.replica.merge import merge
from standby.replica.merge_plan import AT_ONCE
from standby.replica.sweep import sweep


def main() -> None:
    store, scratch, *keep = sys.argv[1:]
    opened = DirectoryStore(Path(store))
    wanted = {int(seq) for seq in keep}
    merge(opened, "web", lambda log: wanted, scratch=Path(scratch), thresholds=AT_ONCE)
    sweep(opened, "web")
    # Not getrusage: its maximum survives exec, and would be that of the tests which forked this process.
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    sys.stdout.write(str(peak >> 10))


if __name__ == "__main__":
    main()
