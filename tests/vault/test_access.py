"""Users, log-ins, sessions, API tokens."""

from __future__ import annotations

import pytest

from standby.errors import InvalidRequest
from standby.vault import access, begin, listing
from standby.vault.core import Actor
from standby.vault.errors import Conflict, Forbidden, NotFound, TooManyAttempts, Unauthenticated
from standby.vault.jobs import Role

PASSWORD = "correct horse"


@pytest.fixture
def otto(vault, administrator) -> Actor:
    user = access.new_user(vault, administrator, "otto", Role.OPERATOR, PASSWORD)
    return Actor("otto", Role.OPERATOR, "portal", user.id)


def test_a_session_is_good_until_it_was_idle_too_long_or_its_user_logs_out(vault, otto, clock):
    logged_in = access.log_in(vault, "otto", PASSWORD, "::1")
    found = access.visitor(vault, logged_in.cookie, "::1")
    assert (found.actor.name, found.actor.role, found.csrf) == ("otto", Role.OPERATOR, logged_in.csrf)
    clock.forward(hours=1)
    access.visitor(vault, logged_in.cookie, "::1")
    clock.forward(hours=2, minutes=1)
    with pytest.raises(Unauthenticated):
        access.visitor(vault, logged_in.cookie, "::1")
    again = access.log_in(vault, "otto", PASSWORD, "::1")
    access.log_out(vault, again.cookie)
    with pytest.raises(Unauthenticated):
        access.visitor(vault, again.cookie, "::1")


def test_a_session_ends_after_twelve_hours_however_it_was_used(vault, otto, clock):
    cookie = access.log_in(vault, "otto", PASSWORD, "::1").cookie
    for _ in range(11):
        clock.forward(hours=1)
        access.visitor(vault, cookie, "::1")
    clock.forward(hours=1, minutes=1)
    with pytest.raises(Unauthenticated):
        access.visitor(vault, cookie, "::1")


@pytest.mark.parametrize("name", ["otto", "nobody"])
def test_ten_wrong_passwords_shut_the_door_for_a_while_whether_or_not_the_name_exists(
    vault, otto, clock, name
):
    for number in range(access.ATTEMPTS):
        with pytest.raises(Unauthenticated):
            access.log_in(vault, name, f"wrong {number}", f"10.0.0.{number}")
    with pytest.raises(TooManyAttempts, match="10 wrong passwords"):
        access.log_in(vault, name, PASSWORD, "10.0.0.99")
    clock.forward(minutes=15, seconds=1)
    if name == "otto":
        access.log_in(vault, name, PASSWORD, "10.0.0.99")


def test_one_address_that_tries_many_names_is_shut_out(vault, otto):
    for number in range(access.ATTEMPTS):
        with pytest.raises(Unauthenticated):
            access.log_in(vault, f"name{number}", "wrong", "10.6.6.6")
    with pytest.raises(TooManyAttempts):
        access.log_in(vault, "otto", PASSWORD, "10.6.6.6")
    access.log_in(vault, "otto", PASSWORD, "10.0.0.1")


def test_a_token_is_never_more_than_its_user(vault, administrator, otto):
    with pytest.raises(Forbidden):
        access.new_token(vault, otto, "ci", Role.ADMINISTRATOR, None)
    row, token = access.new_token(vault, otto, "ci", Role.OPERATOR, 10)
    assert access.bearer(vault, token, "").role is Role.OPERATOR
    access.change_user(vault, administrator, otto.user, role=Role.READER)
    assert access.bearer(vault, token, "").role is Role.READER
    access.change_user(vault, administrator, otto.user, enabled=False)
    with pytest.raises(Unauthenticated):
        access.bearer(vault, token, "")
    assert token not in str(vars(row))


def test_a_token_expires_and_can_be_deleted_by_its_user_or_an_administrator(
    vault, administrator, otto, clock
):
    _, first = access.new_token(vault, otto, "a", Role.READER, 1)
    row, second = access.new_token(vault, otto, "b", Role.READER, None)
    clock.forward(days=2)
    with pytest.raises(Unauthenticated):
        access.bearer(vault, first, "")
    stranger = Actor("rita", Role.READER, "api", "other")
    with pytest.raises(NotFound):
        access.delete_token(vault, stranger, row.id)
    access.delete_token(vault, administrator, row.id)
    with pytest.raises(Unauthenticated):
        access.bearer(vault, second, "")


def test_the_last_administrator_stays_one(vault, administrator):
    for change in ({"role": Role.READER}, {"enabled": False}):
        with pytest.raises(Conflict, match="nobody else"):
            access.change_user(vault, administrator, administrator.user, **change)
    with pytest.raises(Conflict, match="nobody else"):
        access.delete_user(vault, administrator, administrator.user)


def test_a_new_password_ends_the_sessions_and_anybody_changes_the_own(vault, otto):
    cookie = access.log_in(vault, "otto", PASSWORD, "::1").cookie
    access.change_user(vault, otto, otto.user, password="another horse")
    with pytest.raises(Unauthenticated):
        access.visitor(vault, cookie, "::1")
    access.log_in(vault, "otto", "another horse", "::1")
    with pytest.raises(Forbidden):
        access.change_user(vault, otto, otto.user, role=Role.ADMINISTRATOR)
    with pytest.raises(InvalidRequest, match="10 characters"):
        access.change_user(vault, otto, otto.user, password="short")


def test_the_first_start_makes_one_administrator_and_tells_the_password_once(vault):
    password = begin.first_user(vault)
    assert password
    assert begin.first_user(vault) is None
    assert access.log_in(vault, begin.FIRST_USER, password, "::1").user.role == "administrator"


def test_passwords_are_neither_in_the_audit_nor_in_clear_anywhere(vault, administrator, otto):
    access.change_user(vault, administrator, otto.user, password="a new and secret one")
    with pytest.raises(Unauthenticated):
        access.log_in(vault, "otto", "a wrong and secret one", "::1")
    for row in listing.audit(vault, administrator):
        assert "secret" not in str(vars(row))
    assert all("secret" not in str(vars(one)) for one in listing.users(vault, administrator))
