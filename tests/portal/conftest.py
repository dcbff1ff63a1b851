from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from argon2 import PasswordHasher
from fastapi.testclient import TestClient

from standby.vault import access
from tests.portal import scene
from tests.portal.scene import PASSWORD, Scene


@pytest.fixture(scope="session", autouse=True)
def cheap_passwords() -> Iterator[None]:
    """Checking a password takes long on purpose; tests/vault tries the real way."""
    with pytest.MonkeyPatch.context() as patch:
        hasher = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
        patch.setattr(access, "hasher", hasher)
        patch.setattr(access, "_NOBODY", hasher.hash("nobody's"))
        yield


@pytest.fixture(scope="session")
def day(tmp_path_factory, cheap_passwords) -> Scene:
    """A vault after a day of work; who changes it leaves what others look at."""
    return scene.full(tmp_path_factory.mktemp("day"))


@pytest.fixture(scope="session")
def new_vault(tmp_path_factory, cheap_passwords) -> Scene:
    return scene.empty(tmp_path_factory.mktemp("new"))


@pytest.fixture
def bare(new_vault, tmp_path) -> Scene:
    """A vault with users and nothing else."""
    return scene.copied(new_vault, tmp_path)


class User:
    """A browser without a script: cookies, pages, and forms with what their pages hid in them."""

    def __init__(self, made: Scene, name: str) -> None:
        self.client = TestClient(made.app, follow_redirects=False)
        if name:
            answer = self.client.post("/login", data={"name": name, "password": PASSWORD})
            assert answer.status_code == 303, answer.text
            self.csrf = self.get("/account").text.partition('name="csrf" value="')[2].partition('"')[0]

    def get(self, path: str, **headers: str):
        return self.client.get(path, headers=headers)

    def post(self, path: str, **values: object):
        return self.client.post(path, data={"csrf": self.csrf, **values})


@pytest.fixture
def enter() -> Iterator[Callable[[Scene, str], User]]:
    made: list[User] = []

    def entered(at: Scene, name: str) -> User:
        made.append(User(at, name))
        return made[-1]

    yield entered
    for one in made:
        one.client.close()


@pytest.fixture(scope="session")
def users(day) -> dict[str, User]:
    """Of the day's vault, by their role; `outsider` is not logged in."""
    return {
        "outsider": User(day, ""),
        "reader": User(day, "rita"),
        "operator": User(day, "olga"),
        "administrator": User(day, "ada"),
    }
