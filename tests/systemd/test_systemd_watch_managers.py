"""A home has one unit of `gpumod watch`: whichever manager has it, it is found, and who may remove it is said."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.systemd.users import User

pytestmark = pytest.mark.systemd

SYSTEM = Path("/etc/systemd/system")


@pytest.fixture
def watched(ann: User) -> Iterator[User]:
    """Ann, whose manager runs; the system's unit of hers, if there is one, is ended."""
    subprocess.run(["systemctl", "start", ann.manager], check=True)
    yield ann
    ann.gpumod("watch", "--uninstall", "--manager", "system", as_root=True)


def as_root(user: User, option: str) -> str:
    return f"as root: gpumod --home {user.home} watch {option} --manager system"


def test_a_second_one_is_refused_and_the_first_is_found(watched: User) -> None:
    first = watched.gpumod("watch", "--install", "--manager", "user")["unit"]
    error = watched.gpumod("watch", "--install", "--manager", "system", as_root=True, code=1)["error"]
    assert error["code"] == "watched-already"
    assert first["path"] in error["message"]
    assert error["hint"] == f"first as ann: gpumod --home {watched.home} watch --uninstall --manager user"
    assert not list(SYSTEM.glob("gpumod.*.service"))
    watched.gpumod("settings", "set", "supervisor", "systemd-system")  # the system's is usual from now on
    assert watched.gpumod("watch", "--install")["unit"]["path"] == first["path"]
    gone = watched.gpumod("watch", "--uninstall")["unit"]
    assert (gone["path"], gone["installed"], gone["changed"]) == (first["path"], False, True)
    assert not Path(first["path"]).exists()


def test_of_two_each_is_told(watched: User) -> None:
    """They were installed by a gpumod that did not look."""
    first = Path(watched.gpumod("watch", "--install", "--manager", "user")["unit"]["path"])
    text = first.read_text()
    watched.gpumod("watch", "--uninstall")
    second = Path(watched.gpumod("watch", "--install", "--manager", "system", as_root=True)["unit"]["path"])
    first.write_text(text)
    told = next(check for check in watched.gpumod("doctor", code=1)["checks"] if check["name"] == "watch")
    assert (str(first) in told["message"], str(second) in told["message"]) == (True, True)
    gone = watched.gpumod("watch", "--uninstall")["unit"]
    assert gone["path"] == str(first)
    assert str(second) in gone["notes"][0]
    assert as_root(watched, "--uninstall") in gone["notes"][0]


def test_the_systems_is_roots_to_install_and_to_remove(watched: User) -> None:
    watched.gpumod("settings", "set", "supervisor", "systemd-system")
    error = watched.gpumod("watch", "--install", code=9)["error"]
    assert (error["code"], error["hint"]) == ("unit-needs-root", as_root(watched, "--install"))
    words = error["hint"].removeprefix("as root: gpumod").split()
    unit = watched.gpumod(*words, as_root=True)["unit"]
    assert Path(unit["path"]).exists()
    watched.gpumod("settings", "set", "supervisor", "process")
    error = watched.gpumod("watch", "--uninstall", code=9)["error"]
    assert (error["code"], error["hint"]) == ("unit-needs-root", as_root(watched, "--uninstall"))
    assert unit["path"] in error["message"]
    words = error["hint"].removeprefix("as root: gpumod").split()
    assert watched.gpumod(*words, as_root=True)["unit"]["changed"]
    assert not Path(unit["path"]).exists()


def test_roots_manager_is_not_the_owners(watched: User) -> None:
    unit = watched.gpumod("watch", "--install", "--manager", "user")["unit"]
    error = watched.gpumod("watch", "--uninstall", as_root=True, code=9)["error"]
    assert error["hint"] == f"as ann: gpumod --home {watched.home} watch --uninstall --manager user"
    assert Path(unit["path"]).exists()
    watched.gpumod("watch", "--uninstall")
