"""Figures of a vault under load: `python -m tests.vault.load --agents 100 --machines 1000 --seconds 60`.

Agents report at the vault's own pace (5 s; 1 s while they do something) with all their machines. Meanwhile somebody
looks at the overview and the list of machines twice a second each, and jobs are begun. At the end: no job lost, none
carried out twice.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.support.postgres import Postgres
from tests.vault.fleet import Balanced, Fleet, Process, quantile

GOAL = 0.2
"""Seconds of p99."""


async def measured(processes: list[Process], arguments: argparse.Namespace) -> bool:
    balanced = Balanced([one.url for one in processes])
    fleet = Fleet(balanced, processes[0].password)
    await fleet.set_up(arguments.agents, arguments.machines)
    end = time.monotonic() + arguments.seconds
    over = False

    async def every(seconds: float, call) -> None:
        due = time.monotonic()
        while time.monotonic() < end:
            await call()
            due += seconds
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    agents = [asyncio.create_task(one.run(lambda: over)) for one in fleet.agents]
    await asyncio.gather(
        every(0.5, lambda: fleet.get("machines", "/machines?limit=100&sort=rpo")),
        every(0.5, lambda: fleet.get("overview", "/overview")),
        every(1 / arguments.jobs, fleet.begin),
    )
    times = {kind: list(found) for kind, found in balanced.times.items()}
    while unended := {
        job for job, state in (await fleet.states()).items() if state in ("queued", "in progress")
    }:
        if time.monotonic() > end + 60:
            break
        await asyncio.sleep(1)
    over = True
    await asyncio.gather(*agents)
    good = True
    for kind in ("heartbeat", "machines", "overview", "begin"):
        p50, p99 = quantile(times[kind], 0.5), quantile(times[kind], 0.99)
        good &= p99 < GOAL or kind == "begin"
        print(f"{kind:10} {len(times[kind]):6} calls  p50 {p50 * 1000:6.1f} ms  p99 {p99 * 1000:6.1f} ms")
    # Attempts that the times do not count: a figure is worth nothing where there are any.
    print(f"attempts: {balanced.lost} without an answer, {balanced.statuses[503]} answered 503")
    good &= not (balanced.lost or balanced.statuses[503])
    started = fleet.started()
    lost = fleet.begun - set(started)
    twice = [job for job, count in started.items() if count > 1]
    print(
        f"jobs: {len(fleet.begun)} begun, {fleet.refused} refused (one was under way), {len(lost)} lost, "
        f"{len(twice)} carried out twice, {len(unended)} without an end"
    )
    await balanced.close()
    return good and not (lost or twice or unended)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=100)
    parser.add_argument("--machines", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--jobs", type=float, default=2, help="begun a second")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--database", help="URL of an empty database [default: a PostgreSQL of its own]")
    arguments = parser.parse_args()
    server = None if arguments.database else Postgres()
    database = arguments.database or server.database()
    with tempfile.TemporaryDirectory() as folder:
        processes = [Process(database, Path(folder) / str(number)) for number in range(arguments.processes)]
        try:
            return 0 if asyncio.run(measured(processes, arguments)) else 1
        finally:
            for one in processes:
                one.stop()
            if server:
                server.stop()


if __name__ == "__main__":
    sys.exit(main())
