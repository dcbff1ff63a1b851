"""How agents prove who they are."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from standby.vault import hosts, listing, machines, overview
from standby.vault.core import Actor
from standby.vault.errors import Conflict, Forbidden, NotFound, Unauthenticated
from standby.vault.jobs import Role
from standby.vault.schema import Base
from tests.vault.conftest import Agent
from tests.vault.standings import standing


def test_a_key_opens_one_registration(vault, key):
    secret = key()
    Agent(vault, secret, "alpha")
    with pytest.raises(Unauthenticated, match="used already"):
        Agent(vault, secret, "beta")


def test_a_key_expires(vault, key, clock):
    secret = key()
    clock.forward(days=5, seconds=1)
    with pytest.raises(Unauthenticated, match="no longer valid"):
        Agent(vault, secret, "alpha")
    with pytest.raises(Unauthenticated, match="unknown"):
        Agent(vault, "guessed", "alpha")


def test_a_host_that_registers_again_keeps_its_machines_and_its_old_token_ends(vault, agent, key):
    before = machines.shown(vault, "web").machine.id
    again = Agent(vault, key(), "alpha", host=agent.registered.host)
    assert again.registered.host == agent.registered.host
    assert machines.shown(vault, "web").machine.id == before
    with pytest.raises(Unauthenticated):
        agent.beat()
    again.beat()


def test_a_token_is_renewed_and_the_old_one_ends_once_the_new_one_was_used(vault, agent, clock):
    old = agent.token
    clock.forward(days=11)
    first = agent.beat().token
    assert first
    # The answer was lost: the old one is still good, and gives another.
    second = agent.beat().token
    assert second not in ("", first)
    agent.token = first
    with pytest.raises(Unauthenticated):
        agent.beat()
    agent.token = second
    assert agent.beat().token == ""
    agent.token = old
    with pytest.raises(Unauthenticated):
        agent.beat()


def test_a_token_that_nobody_renewed_expires(vault, agent, clock):
    clock.forward(days=31)
    with pytest.raises(Unauthenticated, match="has expired"):
        agent.beat()


def test_a_revoked_host_is_refused_and_its_jobs_end(vault, administrator, agent):
    agent.beat(relationships=(standing("web"),))
    job = machines.begin(vault, administrator, "web", "pause", {})
    hosts.revoke(vault, administrator, "alpha")
    with pytest.raises(Unauthenticated):
        agent.beat()
    assert listing.hosts(vault) == []
    assert [one.name for one in listing.hosts(vault, revoked=True)] == ["alpha"]
    assert overview.job(vault, job.id).job.state == "cancelled"


def test_only_administrators_change_infrastructure(vault, site):
    operator = Actor("otto", Role.OPERATOR, "portal", "u")
    with pytest.raises(Forbidden):
        hosts.new_key(vault, operator, site, "", "")
    with pytest.raises(Forbidden):
        hosts.new_site(vault, operator, "Rome")
    with pytest.raises(Forbidden):
        hosts.revoke(vault, operator, "alpha")


def test_a_site_with_hosts_stays(vault, administrator, agent, site):
    with pytest.raises(Conflict, match="it has hosts"):
        hosts.delete_site(vault, administrator, site)
    with pytest.raises(Conflict, match="already"):
        hosts.new_site(vault, administrator, "Berlin")
    other = hosts.new_site(vault, administrator, "Rome")
    hosts.delete_site(vault, administrator, other.id)
    with pytest.raises(NotFound):
        hosts.delete_site(vault, administrator, other.id)


def test_no_secret_of_an_agent_is_in_the_database(vault, agent, key):
    secret = key()
    with vault.session() as session:
        for table in Base.metadata.sorted_tables:
            for row in session.execute(text(f'SELECT * FROM "{table.name}"')):
                assert secret not in str(row)
                assert agent.token not in str(row)
