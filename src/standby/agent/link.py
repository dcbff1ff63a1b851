"""The agent's talk with its vault: a heartbeat every few seconds, in a thread beside replication.

Whatever becomes of the vault, the network or this thread, replication goes on; what happened meanwhile is told when the
vault is back. A host that belongs to no vault has a link that looks now and then whether it was registered.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from standby import failpoints
from standby.agent import link_state
from standby.agent.link_client import TokenRefused, VaultClient, VaultNotTrusted, VaultRefused
from standby.agent.link_state import Membership, Talk
from standby.agent.orders import Orders
from standby.agent.report import point_made
from standby.clock import Clock
from standby.errors import StandbyError
from standby.link.messages import Answer, Heartbeat
from standby.replication.books import Books
from standby.replication.made import Made

log = logging.getLogger(__name__)

LOOK: Final = 1.0
"""Seconds between two looks at whether the host was registered, or anew, or has left."""

SOONEST: Final = 1.0
LATEST: Final = 300.0
"""Seconds between two heartbeats, whatever the vault wishes."""

BACK_OFF: Final = 60.0
"""Seconds at most between two tries while the vault is away."""

REFUSED: Final = 300.0
"""Seconds between two tries while the vault refuses this host: only a person can help."""

POINTS: Final = 500
"""Points in one heartbeat, after a long absence."""

_TOKEN = failpoints.declare("link.token_kept")
_TAKEN_IN = failpoints.declare("link.orders_taken_in")
_TOLD = failpoints.declare("link.points_told")


class Link:
    """Of one agent. heartbeat: the host as it is now, without points and orders. orders: opens the ledger of orders,
    once the host belongs to a vault. ended: told when an order has ended."""

    def __init__(
        self,
        folder: Path,
        books: Books,
        clock: Clock,
        heartbeat: Callable[[], Heartbeat],
        orders: Callable[[], Orders],
        ended: Callable[[], None] = lambda: None,
        client: Callable[[str, str], VaultClient] = VaultClient,
    ) -> None:
        self._folder = folder
        self._books = books
        self._clock = clock
        self._heartbeat = heartbeat
        self._open_orders = orders
        self._ended = ended
        self._make_client = client
        self._orders: Orders | None = None
        self._wake = threading.Event()
        self._closed = False
        self._failures = 0
        self._answered_at: datetime | None = None
        self._skew = 0.0
        self._problem = ""
        self._thread = threading.Thread(target=self._run, name="standby-link", daemon=True)
        # Before anything is replicated: no point is made that is not told.
        books.reporting = link_state.membership_mark(folder) is not None

    def start(self) -> None:
        self._thread.start()

    def again(self) -> None:
        """Have the next heartbeat at once: there is something to tell."""
        self._wake.set()

    def _order_ended(self) -> None:
        self._ended()
        self.again()

    def close(self) -> None:
        """Not waited for longer than a moment: the vault may hang."""
        self._closed = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(2.0)
        if self._orders:
            self._orders.close()

    @property
    def answered_at(self) -> datetime | None:
        """When the vault last answered, since the agent was started or the host registered."""
        return self._answered_at

    @property
    def answers(self) -> bool:
        return self._answered_at is not None and not self._failures

    @property
    def orders_at_work(self) -> int:
        return len(self._orders.at_work()) if self._orders else 0

    def _run(self) -> None:
        while not self._closed:
            mark = link_state.membership_mark(self._folder)
            try:
                found = link_state.membership(self._folder)
                self._set_reporting(found is not None)
                if found:
                    self._be_member(found)
                else:
                    self._wait(LOOK, mark)
            except StandbyError as error:
                self._tell_failure(error)
                self._wait(BACK_OFF, mark)
            except Exception:
                # Whatever it is, it must not end the link for good, and is none of replication's concern.
                log.exception("the link to the vault fails; it is tried again")
                self._wait(BACK_OFF, mark)

    def _be_member(self, found: Membership) -> None:
        """Talk until the membership is another, or the agent stops."""
        if self._orders is None:
            self._orders = self._open_orders()
            self._orders.ended = self._order_ended
        log.info("this host is %s (%s) of the vault %s", found.name, found.host, found.vault)
        self._failures, self._answered_at, self._problem = 0, None, ""
        mark = link_state.membership_mark(self._folder)
        with self._make_client(found.vault, found.authority) as client:
            while not self._closed and link_state.membership_mark(self._folder) == mark:
                asked = self._clock.now().isoformat()
                try:
                    kept, wait = self._beat(client, found, self._orders)
                except StandbyError as error:
                    wait = self._failed(error)
                    kept = found
                if kept is not found:
                    found, mark = kept, link_state.membership_mark(self._folder)
                if link_state.membership_mark(self._folder) == mark:
                    self._keep_talk(found, asked)
                self._wait(wait, mark)

    def _beat(self, client: VaultClient, member: Membership, orders: Orders) -> tuple[Membership, float]:
        points = self._books.untold(POINTS)
        heartbeat = msgspec.structs.replace(
            self._heartbeat(),
            points=tuple(map(point_made, points)),
            work=orders.reports(),
            room=orders.room,
        )
        answer, skew = client.heartbeat(heartbeat, member.token)
        member = self._take_in(answer, member, orders, points)
        if self._failures or not self._answered_at:
            log.info("the vault %s answers", member.vault)
        self._failures, self._problem, self._skew = 0, "", skew
        self._answered_at = self._clock.now()
        # More is waiting to be told: an absence is made up for without haste, but at once.
        wait = SOONEST if len(points) == POINTS else answer.next
        return member, min(max(wait, SOONEST), LATEST)

    def _take_in(self, answer: Answer, member: Membership, orders: Orders, points: list[Made]) -> Membership:
        """Each part is durable before the next; a kill between two has the vault give the rest again."""
        if answer.token and link_state.membership(self._folder) == member:  # not where the host has just left
            member = msgspec.structs.replace(member, token=answer.token, expires=answer.token_expires)
            link_state.keep_membership(self._folder, member)
            _TOKEN.reach()
        orders.taken(answer.taken)
        for order in answer.orders:
            orders.accept(order)
        orders.cancel(answer.cancel)
        _TAKEN_IN.reach()
        self._books.told(points)
        _TOLD.reach()
        return member

    def _failed(self, error: StandbyError) -> float:
        """Seconds until the next try."""
        self._tell_failure(error)
        self._failures += 1
        if isinstance(error, TokenRefused | VaultNotTrusted):
            return REFUSED
        if isinstance(error, VaultRefused):
            return BACK_OFF
        # Not all hosts of a vault that comes back at the same instant.
        return float(min(2 ** min(self._failures, 10), BACK_OFF)) * random.uniform(0.5, 1.0)

    def _tell_failure(self, error: StandbyError) -> None:
        if str(error) != self._problem:
            self._problem = str(error)
            log.warning("%s", error)

    def _keep_talk(self, member: Membership, asked: str) -> None:
        known = Talk(
            host=member.host,
            answered=self._answered_at.isoformat() if self._answered_at else self._before(member),
            asked=asked,
            problem=self._problem,
            failures=self._failures,
            skew=self._skew,
        )
        try:
            link_state.keep_talk(self._folder, known)
        except StandbyError as error:
            self._tell_failure(error)

    def _before(self, member: Membership) -> str:
        """By an earlier start of the agent."""
        before = link_state.talk(self._folder)
        return before.answered if before and before.host == member.host else ""

    def _set_reporting(self, member: bool) -> None:
        if self._books.reporting and not member:
            log.info("this host belongs to no vault any more")
            self._books.reporting = False
            self._books.forget_untold()
        self._books.reporting = member

    def _wait(self, seconds: float, mark: tuple[int, int] | None) -> None:
        """Until so many seconds have passed, there is something to tell, or the membership is another."""
        until = self._clock.monotonic() + seconds
        while not self._closed and (left := until - self._clock.monotonic()) > 0:
            if self._wake.wait(min(left, LOOK)):
                self._wake.clear()
                if not self._failures:
                    return
            if link_state.membership_mark(self._folder) != mark:
                return
