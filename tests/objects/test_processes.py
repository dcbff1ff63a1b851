"""Eight processes write one name at once: each time exactly one wins, and the object is the winner's."""

from __future__ import annotations

import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from standby.objects.base import Conflict
from standby.objects.directory import DirectoryStore
from standby.objects.marker import TEMPS

WORKERS, ROUNDS = 8, 25
Win = tuple[str, int, int]


def work(path: str, worker: int, barrier: Barrier, wins: multiprocessing.SimpleQueue[list[Win]]) -> None:
    store = DirectoryStore(Path(path))
    mine: list[Win] = []
    for number in range(ROUNDS):
        name = f"points/{number}"
        barrier.wait(60)
        if not isinstance(store.put_if_absent(name, b"put %d" % worker), Conflict):
            mine.append(("put", number, worker))
        barrier.wait(60)
        head = store.get("head")
        barrier.wait(60)
        if not isinstance(store.swap("head", b"swap %d %d" % (number, worker), head.version), Conflict):
            mine.append(("swap", number, worker))
    wins.put(mine)


@pytest.mark.slow
def test_exactly_one_process_wins_each_round(tmp_path: Path):
    store = DirectoryStore(tmp_path / "store", create=True)
    store.put("head", b"")
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(WORKERS), context.SimpleQueue()
    workers = [
        context.Process(target=work, args=(store.url, worker, barrier, queue)) for worker in range(WORKERS)
    ]
    for process in workers:
        process.start()
    for process in workers:
        process.join(120)
    assert [process.exitcode for process in workers] == [0] * WORKERS
    wins = sorted(win for _ in workers for win in queue.get())
    assert [(verb, number) for verb, number, _ in wins] == [
        (verb, number) for verb in ("put", "swap") for number in range(ROUNDS)
    ]
    for _, number, worker in wins[:ROUNDS]:
        assert store.get(f"points/{number}").data == b"put %d" % worker
    assert store.get("head").data == b"swap %d %d" % wins[-1][1:]
    assert list((tmp_path / "store" / TEMPS).iterdir()) == []


def increment(path: str, times: int) -> None:
    store = DirectoryStore(Path(path))
    for _ in range(times):
        while True:
            found = store.get("counter")
            if not isinstance(store.swap("counter", b"%d" % (int(found.data) + 1), found.version), Conflict):
                break


@pytest.mark.slow
def test_no_swap_is_lost(tmp_path: Path):
    store = DirectoryStore(tmp_path / "store", create=True)
    store.put("counter", b"0")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=increment, args=(store.url, 40)) for _ in range(4)]
    for process in workers:
        process.start()
    for process in workers:
        process.join(120)
    assert [process.exitcode for process in workers] == [0] * 4
    assert store.get("counter").data == b"160"
