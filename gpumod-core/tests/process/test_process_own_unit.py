"""In which systemd unit a process runs, by what the kernel tells of its control groups."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumod.adapters.process.own_unit import OwnUnit, kill_mode, own_unit

MINE = "/user.slice/user-1000.slice/user@1000.service"
LOADED = {"LoadState": "loaded", "KillMode": "control-group", "ExitType": "main"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/system.slice/night.service", OwnUnit("system", "night.service")),
        ("/system.slice/system-look.slice/look@a.service", OwnUnit("system", "look@a.service")),
        ("/system.slice/docker.service/payload/sub", OwnUnit("system", "docker.service")),
        (f"{MINE}/app.slice/look.service", OwnUnit("user", "look.service")),
        (f"{MINE}/app.slice/app-kitty@1.service", OwnUnit("user", "app-kitty@1.service")),
        (f"{MINE}/app.slice/vte-spawn-1.scope", None),
        (f"{MINE}/app.slice/emacs.service/tab.scope", None),
        (f"{MINE}/init.scope", None),
        (MINE, None),
        ("/user.slice/user-1001.slice/user@1001.service/app.slice/look.service", None),
        ("/user.slice/user-1000.slice/session-2.scope", None),
        ("/system.slice/docker-0123.scope", None),
        ("/", None),
        ("/../../my.service/../job", OwnUnit("system", "my.service")),
    ],
)
@pytest.mark.parametrize("before", ["", "4:memory:/system.slice/other.service\n1:name=systemd:/\n"])
def test_the_innermost_unit_counts(path: str, expected: OwnUnit | None, before: str) -> None:
    assert own_unit(f"{before}0::{path}\n", 1000) == expected
    assert own_unit(f"0::/\n1:name=systemd:{path}\n", 1000) == expected


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    own_unit(text, 0)
    assert own_unit("0::/a.slice/" + text.replace("\n", ""), 0) is None or ".service" in text


def test_which_units_end_what_is_left_in_them() -> None:
    assert kill_mode(LOADED) == "control-group"
    assert kill_mode({**LOADED, "KillMode": "mixed"}) == "mixed"
    assert kill_mode({name: LOADED[name] for name in ("LoadState", "KillMode")}) == "control-group"  # before ExitType=
    for other in ({"KillMode": "process"}, {"KillMode": "none"}, {"ExitType": "cgroup"}, {"LoadState": "not-found"}):
        assert kill_mode({**LOADED, **other}) is None
    assert kill_mode({}) is None
