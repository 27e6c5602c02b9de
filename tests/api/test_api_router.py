"""Where paths lead."""

from __future__ import annotations

import pytest

from wd_trio.api.router import Router


@pytest.fixture
def router() -> Router[str]:
    made: Router[str] = Router()
    made.add("GET", "/users", "list")
    made.add("POST", "/users", "create")
    made.add("GET", "/users/{user}", "show")
    made.add("GET", "/users/resolve/{username}", "resolve")
    made.add("PUT", "/users/{user}/logout", "log out")
    made.add("GET", "/users/{id}/boxes/resolve", "find")
    made.add("GET", "/users/{user}/boxes/{box}", "box")
    made.add("GET", "/users/{user}/boxes/{box}/messages", "messages")
    return made


@pytest.mark.parametrize(
    ("method", "path", "target", "values"),
    [
        ("GET", "/users", "list", {}),
        ("HEAD", "/users", "list", {}),
        ("POST", "/users", "create", {}),
        ("GET", "/users/resolve", "show", {"user": "resolve"}),
        ("GET", "/users/resolve/logout", "resolve", {"username": "logout"}),
        ("PUT", "/users/x/logout", "log out", {"user": "x"}),
        ("GET", "/users/x/boxes/resolve", "find", {"id": "x"}),
        ("GET", "/users/x/boxes/resolve/messages", "messages", {"user": "x", "box": "resolve"}),
        ("GET", "/users/a%2Fb%40c", "show", {"user": "a/b@c"}),
        ("GET", "/users/%C3%A9%ff", "show", {"user": "é�"}),
        ("GET", "http://host/users/x", "show", {"user": "x"}),
    ],
)
def test_paths_that_lead_somewhere(
    router: Router[str], method: str, path: str, target: str, values: dict[str, str]
) -> None:
    found = router.find(path.encode())
    assert found is not None
    assert found.target(method) == (target, values)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "*",
        "users",
        "/",
        "//users",
        "/users/",
        "/users//logout",
        "/users/x/logout/",
        "/users/x/y",
        "/users%2Fx",
    ],
)
def test_paths_that_lead_nowhere(router: Router[str], path: str) -> None:
    assert router.find(path.encode()) is None


def test_methods_that_are_not_there(router: Router[str]) -> None:
    found = router.find(b"/users")
    assert found is not None
    assert found.target("DELETE") is None
    assert found.methods == ["GET", "HEAD", "POST"]
    logout = router.find(b"/users/x/logout")
    assert logout is not None
    assert (logout.target("HEAD"), logout.methods) == (None, ["PUT"])
