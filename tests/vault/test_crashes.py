"""Two processes of one vault on one PostgreSQL, killed at random while jobs flow, and with answers that are lost."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from tests.vault.fleet import Balanced, Fleet, Process

pytestmark = pytest.mark.slow

SECONDS = 10
AGENTS, MACHINES = 5, 20


def test_no_job_is_lost_or_done_twice_whatever_dies(postgres, tmp_path):
    database = postgres.database()
    processes = [Process(database, tmp_path / str(number)) for number in range(2)]
    try:
        asyncio.run(_flow(processes))
    finally:
        for one in processes:
            one.stop()


async def _flow(processes: list[Process]) -> None:
    balanced = Balanced([one.url for one in processes], limit=5.0)
    fleet = Fleet(balanced, processes[0].password)
    await fleet.set_up(AGENTS, MACHINES)
    balanced.drop = 0.1
    end = time.monotonic() + SECONDS
    kills = 0
    ended = asyncio.Event()

    async def jobs() -> None:
        while time.monotonic() < end:
            await fleet.begin()
            await asyncio.sleep(0.05)

    async def death() -> None:
        nonlocal kills
        while time.monotonic() < end:
            await asyncio.sleep(random.uniform(0.2, 1.0))
            one = random.choice(processes)
            one.kill()
            kills += 1
            await asyncio.to_thread(one.start)

    agents = [asyncio.create_task(one.run(ended.is_set, every=0.2)) for one in fleet.agents]
    await asyncio.gather(jobs(), jobs(), death())
    balanced.drop = 0.0
    states = await fleet.states()
    while any(state in ("queued", "in progress") for state in states.values()):
        assert time.monotonic() < end + 30, "jobs are stuck"
        await asyncio.sleep(0.2)
        states = await fleet.states()
    ended.set()
    await asyncio.gather(*agents)
    started = fleet.started()
    await balanced.close()
    assert kills >= 2
    assert balanced.lost > 0
    assert balanced.dropped > 10
    assert len(fleet.begun) > 20
    # Neither one lost that was taken in, nor one begun of which the caller was not told.
    assert set(states) == fleet.begun
    assert set(states.values()) == {"succeeded"}
    assert {job: started[job] for job in states if started[job] != 1} == {}
