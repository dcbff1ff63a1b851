"""A process that writes to a store, to be killed: python -m tests.objects.child STORE OPERATION SOURCE."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from standby.objects.directory import DirectoryStore

OLD, NEW = b"old content", b"new" * 50_000

OPERATIONS: dict[str, tuple[str, Callable[[DirectoryStore, str, Path], object]]] = {
    "put over": ("a/old", lambda store, name, source: store.put(name, NEW)),
    "put new": ("n/e/w", lambda store, name, source: store.put(name, NEW)),
    "put_if_absent": ("n/e/w", lambda store, name, source: store.put_if_absent(name, NEW)),
    "put_file new": ("n/e/w", lambda store, name, source: store.put_file(name, source)),
    "put_file over": ("a/old", lambda store, name, source: store.put_file(name, source)),
    "swap": ("a/old", lambda store, name, source: store.swap(name, NEW, store.get(name).version)),
    "delete": ("a/old", lambda store, name, source: store.delete(name)),
}


def main() -> None:
    path, operation, source = sys.argv[1:]
    if operation == "create":
        DirectoryStore(Path(path), create=True)
        return
    name, action = OPERATIONS[operation]
    action(DirectoryStore(Path(path)), name, Path(source))


if __name__ == "__main__":
    main()
