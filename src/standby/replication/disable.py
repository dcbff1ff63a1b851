"""Disable protection: the relationship ends, its replica stays in the store."""

from __future__ import annotations

import shutil
from pathlib import Path

from standby.hypervisor.base import Hypervisor
from standby.replication.books import Books


def disable(books: Books, relationship_id: str, hypervisor: Hypervisor | None) -> int:
    """End change tracking, forget the relationship, remove its local files. Harmless to repeat.

    hypervisor: None where the machine is gone for good; then its tracking is not ended.
    Returns the points that waited for the store and are given up. Raises what Hypervisor.tracking and
    Tracking.stop do, before anything was forgotten.
    """
    relationship = books.get(relationship_id)
    if hypervisor is not None:
        tracking = hypervisor.tracking(relationship.machine, relationship.id, books.scratch)
        try:
            tracking.stop()
        finally:
            tracking.close()
    queue, logs = books.queue(relationship_id), books.waiting_logs(relationship_id)
    books.remove(relationship_id)
    # A kill here leaves files behind that nothing refers to; the other order would leave books that refer
    # to files that are gone.
    for path in logs:
        Path(path).unlink(missing_ok=True)
    shutil.rmtree(books.folder / "known" / relationship_id, ignore_errors=True)
    return sum(entry.kind != "scan" for entry in queue)
