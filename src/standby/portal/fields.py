"""Forms as data: one template shows them all, as a dialog or as a page of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from fastapi import Response

from standby.errors import InvalidRequest, StandbyError
from standby.portal.visit import Filled, Visit
from standby.vault.api.problem import status_of
from standby.vault.errors import Forbidden, Unauthenticated

NUMBER: Final = "number"


class Option(NamedTuple):
    value: str
    label: str


class Field(NamedTuple):
    """kind: an input's type, or `select`, `checks` (some of the options; values are a list), `checkbox`.

    group: the heading under which it stands, with those beside it that have the same.
    """

    name: str
    label: str
    kind: str = "text"
    value: Any = ""
    options: Sequence[Option] = ()
    help: str = ""
    required: bool = False
    group: str = ""
    extra: tuple[tuple[str, str], ...] = ()


class FormPage(NamedTuple):
    """action: where it is sent. back: where its cancelling leads without a script. danger: the button says so.
    plain: its answer is a file, so no script sends it. lacks: what must be there first, with the way there."""

    title: str
    action: str
    button: str
    back: str
    text: Sequence[str] = ()
    fields: Sequence[Field] = ()
    danger: bool = False
    plain: bool = False
    lacks: Sequence[tuple[str, str]] = ()

    def groups(self) -> list[tuple[str, list[Field]]]:
        found: dict[str, list[Field]] = {}
        for one in self.fields:
            found.setdefault(one.group, []).append(one)
        return list(found.items())

    def filled(self, form: Filled) -> FormPage:
        """With what was sent, so that nothing is typed twice. Passwords are."""

        def again(field: Field) -> Field:
            if field.kind in ("password", "hidden"):
                return field
            if field.kind == "checks":
                return field._replace(value=form.all(field.name))
            return field._replace(value=form[field.name])

        return self._replace(fields=[again(one) for one in self.fields])


def show(visit: Visit, page: FormPage, error: StandbyError | None = None) -> Response:
    status = status_of(error) if error else 200
    return visit.page("form.html", status=status, form=page, error=error)


def refused(visit: Visit, page: FormPage, form: Filled, error: InvalidRequest) -> Response:
    """The form again, with why it was refused."""
    if isinstance(error, Forbidden | Unauthenticated):
        raise error
    return show(visit, page.filled(form), error)


def options(rows: Iterable[Any]) -> list[Option]:
    """Of rows with an id and a name."""
    return [Option(one.id, one.name) for one in rows]
