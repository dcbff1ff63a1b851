"""Alerts on their way out, to a real HTTP server."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from sqlalchemy import select

from standby.errors import InvalidRequest
from standby.vault import catalogue, notify
from standby.vault.schema import Delivery
from tests.vault.standings import critical, standing


class Hook:
    """Takes what is posted, and answers as it is told to."""

    def __init__(self) -> None:
        self.status = 200
        self.taken: list[dict] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.taken.append({"path": self.path, "body": body.decode()})
                self.send_response(hook.status)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hook():
    hook = Hook()
    yield hook
    hook.close()


def errors(vault) -> list[str]:
    with vault.session() as session:
        return [one.error for one in session.scalars(select(Delivery).order_by(Delivery.id))]


def test_an_alert_is_told_once_and_once_more_when_it_is_over(vault, administrator, agent, hook):
    catalogue.new_channel(vault, administrator, "pager", "webhook", hook.url, [])
    for _ in range(2):
        agent.beat(relationships=(critical("web", "the store is full"),))
        notify.deliver(vault)
    agent.beat(relationships=(standing("web"),))
    notify.deliver(vault)
    notify.deliver(vault)
    told = [json.loads(one["body"]) for one in hook.taken]
    assert [(one["what"], one["kind"], one["subject"], one["text"]) for one in told] == [
        ("raised", "health-critical", "web", "the store is full"),
        ("cleared", "health-critical", "web", "the store is full"),
    ]


def test_a_channel_that_does_not_answer_is_tried_again_and_the_reason_kept(
    vault, administrator, agent, hook, clock
):
    catalogue.new_channel(vault, administrator, "pager", "webhook", hook.url, [])
    hook.status = 500
    agent.beat(relationships=(critical("web", "the store is full"),))
    assert notify.deliver(vault) == 0
    assert errors(vault) == ["the webhook answered 500"]
    assert notify.deliver(vault) == 0
    assert len(hook.taken) == 1, "not before it is due"
    hook.status = 200
    clock.forward(minutes=1, seconds=1)
    assert notify.deliver(vault) == 1
    assert errors(vault) == [""]


def test_apprise_carries_it_and_only_the_kinds_that_were_chosen(vault, administrator, agent, hook):
    target = hook.url.replace("http://", "json://")
    catalogue.new_channel(vault, administrator, "chat", "apprise", target, ["host-silent"])
    catalogue.new_channel(vault, administrator, "all", "apprise", target, ["health-critical"])
    agent.beat(relationships=(critical("web", "the store is full"),))
    assert notify.deliver(vault) == 1
    (taken,) = hook.taken
    assert "the store is full" in taken["body"]


def test_a_target_that_is_none_is_refused_or_told_without_its_secret(vault, administrator, agent):
    with pytest.raises(InvalidRequest, match="URL"):
        catalogue.new_channel(vault, administrator, "x", "webhook", "ftp://secret", [])
    with pytest.raises(InvalidRequest, match="no alert"):
        catalogue.new_channel(vault, administrator, "x", "webhook", "https://x", ["weather"])
    catalogue.new_channel(vault, administrator, "gone", "webhook", "http://127.0.0.1:9/secret", [])
    agent.beat(relationships=(critical("web", "the store is full"),))
    notify.deliver(vault)
    assert errors(vault) == ["the webhook does not answer (ConnectError)"]
