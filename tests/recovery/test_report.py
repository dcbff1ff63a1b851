"""A report as a browser would read it: whole in itself, nothing of a guest's words is markup, figures as recorded."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from standby.recovery import report as reports
from standby.recovery.report import MachineReport, Picture, Report, StepLine, render
from standby.replica.proofs import Check

EVIL = "<script>alert('guest')</script><img src=http://192.0.2.1/x>"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(64))


def machine(**changes) -> MachineReport:
    base = MachineReport(
        machine="web", kind="test failover", source="web in /srv/replicas", host="host-b", point=42,
        point_at="2026-11-24T08:59:31+00:00", consistency="crash-consistent", started="2026-11-24T09:00:00+00:00",
        verdict="passed", reasons=("the guest agent answered",), rpo=29.0, rto=14.2,
        rto_told="until the guest agent answered",
    )  # fmt: skip
    return base._replace(**changes)


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [
            value or "" for name, value in attributes if name in ("src", "href", "action", "srcset")
        ]

    def handle_data(self, data):
        if self.lasttag != "style":
            self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)


def read(*machines: MachineReport, **more) -> tuple[Reader, str]:
    html = render(Report("Drill", datetime(2026, 11, 24, 12, tzinfo=UTC), "ann", machines, **more))
    reader = Reader()
    reader.feed(html)
    return reader, html


def test_it_needs_nothing_but_itself_and_runs_nothing():
    reader, html = read(machine(pictures=(Picture("Screen", PNG),)))
    assert reader.addresses == [f"data:image/png;base64,{base64.b64encode(PNG).decode()}"]
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(reader.tags)
    assert "default-src 'none'" in html
    assert not re.search(r"url\(|@import|https?:", html)


@pytest.mark.parametrize("field", ["machine", "kind", "source", "consistency", "rpo_told", "console"])
def test_no_word_of_a_guest_or_a_store_is_markup(field):
    plain, _ = read(machine(**{field: "words"}))
    reader, html = read(machine(**{field: EVIL}))
    assert reader.tags == plain.tags
    assert "alert('guest')" in reader.text
    assert EVIL not in html


def test_what_lists_hold_is_no_markup_either():
    check = Check(name=EVIL, passed=None, text=EVIL)
    step = StepLine(EVIL, EVIL, "2026-11-24T09:00:00+00:00", 1.0, True, EVIL)
    reader, html = read(
        machine(reasons=(EVIL,), problems=(EVIL,), guest=((EVIL, EVIL),), checks=(check,), steps=(step,)),
        plan=(step,),
        problems=(EVIL,),
    )
    assert not {"script", "img"} & set(reader.tags)
    assert reader.text.count("alert('guest')") >= 10
    assert EVIL not in html


def test_the_worst_of_all_machines_is_told_first():
    reader, _ = read(
        machine(), machine(machine="db", verdict="failed", rpo=7400.0, rto=None, problems=("no boot",))
    )
    assert "failed verdict 2 machines, 1 with problems 2 h 3 min RPO reached, worst 14 s RTO" in reader.text
    assert "; 1 not known" in reader.text
    assert "no boot" in reader.text


def test_a_terminals_sequences_are_left_out_of_the_console():
    reader, _ = read(machine(console="\x1b[2J\x1b[01;32mready\x1b[0m\x07\r\nlogin: \x9b"))
    assert "console ready login: Carried" in reader.text


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [([], ""), (["", ""], ""), (["passed", ""], "passed"), (["passed", "unsure"], "unsure"),
     (["unsure", "failed"], "failed")],
)  # fmt: skip
def test_the_verdict_of_all(verdicts, worst):
    assert reports.worst(verdicts) == worst


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(None, "not known"), (0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (185, "3 min 5 s"), (7440, "2 h 4 min"),
     (273_600, "3 days 4 h")],
)  # fmt: skip
def test_times_are_told_as_people_do(seconds, told):
    assert reports.span(seconds) == told
