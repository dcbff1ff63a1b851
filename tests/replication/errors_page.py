"""docs/errors.md, from the table of errors. `python -m tests.replication.errors_page` writes it."""

from __future__ import annotations

from pathlib import Path

from standby.replication.classification import TABLE, Outcome
from standby.replication.retry import MINUTES, STEADY_MINUTES

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"

MEANINGS = {
    Outcome.RETRY: f"after {', '.join(map(str, MINUTES))} minutes from the first failure on, then every "
    f"{STEADY_MINUTES}; or when an operator says so. A warning at first, Critical from the {STEADY_MINUTES} minutes on",
    Outcome.CYCLE: "tried again with the next cycle, when that is due; it takes what this one would have taken",
    Outcome.CRITICAL: "not retried; the machine's health is Critical until a person has acted",
    Outcome.RESYNC: "the disk is compared with its replica by hashes, in its window; recovery points stay",
    Outcome.FENCED: "another agent owns the replica; nothing is written to it any more",
    Outcome.REFUSED: "the request is corrected and put again; nothing was changed",
    Outcome.BUG: "not retried, Critical, reported; nothing was forgotten",
}


def page() -> str:
    lines = [
        "# What each error leads to",
        "",
        "Made from `standby.replication.classification` by `python -m tests.replication.errors_page`.",
        "",
        "| outcome | what happens |",
        "|---|---|",
        *(f"| {outcome.value} | {MEANINGS[outcome]} |" for outcome in Outcome),
        "",
        "| error | outcome | when | what a person does |",
        "|---|---|---|---|",
        *(f"| `{name}` | {row.outcome.value} | {row.when} | {row.person} |" for name, row in TABLE.items()),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
