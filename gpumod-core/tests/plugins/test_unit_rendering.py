"""Units as they are rendered, and the file of variables beside them: what no systemd is needed for."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpumod.adapters.launches import Resolved
from gpumod.adapters.service_user import named_user, refuse_other_user
from gpumod.adapters.systemd import units
from gpumod.adapters.systemd.envfile import environment_text
from gpumod.adapters.systemd.manager import Manager, runtime_dir
from gpumod.adapters.systemd.rendering import Rendering, public_variables
from gpumod.adapters.systemd.states import ending_at
from gpumod.adapters.templates import ENV_NAME, systemd_path, systemd_program
from gpumod.domain.errors import Failed, GpumodError, MachineLacks, UsageError
from gpumod.domain.run import Handle
from gpumod.domain.secrets import SYSTEMDS_OWN
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.ports import Launch

SHELLS_OWN = frozenset({"_", "IFS", "PWD", "OLDPWD", "OPTIND", "PPID", "UID", "EUID", "SHLVL", "BASHOPTS", "SHELLOPTS"})
TEXTS = st.text(st.sampled_from("\\\"'`$%! \n\r\taé{}*#;&|") | st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = TEXTS.filter(lambda text: "\0" not in text)
NAMES = st.from_regex(ENV_NAME, fullmatch=True).filter(lambda name: name not in SYSTEMDS_OWN | SHELLS_OWN)
OURS = units.Whose("0" * 12, os.geteuid())
NOBODY = pwd.getpwnam("nobody").pw_uid
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def rendering(home: Path, scope: Any = "system", **more: Any) -> Rendering:
    home.mkdir(exist_ok=True)
    return Rendering(home, "0" * 12, Settings(**more), scope, [])


def unit_of(made: Rendering, template: str | None = None, **fields: Any) -> units.Unit:
    service = Service(id="svc", driver="none", **fields)
    handle = Handle(service="svc", supervisor="systemd-system", nonce="", launched=service, started_at=0)
    launch = Launch(argv=("true", "a"), env={"PLAIN": "1", "API_KEY": "s3cr3t"})
    found = Resolved("/bin/true", launch.argv, launch.env, {"PATH": "/bin"}, Path("/srv"))
    return made.unit(handle, launch, found, template)


@FEW
@given(values=st.dictionaries(NAMES, VALUES, max_size=4))
def test_a_shell_reads_the_file_of_variables_as_systemd_does(tmp_path: Path, values: dict[str, str]) -> None:
    file = tmp_path / "environment"
    file.write_bytes(environment_text("svc", values).encode())
    words = ["/bin/sh", "-c", 'set -a; . "$0"; exec "$@"', str(file), "/usr/bin/env", "-0"]
    done = subprocess.run(words, env={"LC_ALL": "C.UTF-8"}, capture_output=True, check=True)
    told = dict(entry.decode().split("=", 1) for entry in done.stdout.split(b"\0") if entry)
    assert {name: told.get(name) for name in values} == values


@pytest.mark.parametrize(
    ("name", "value"), [("A-B", "x"), ("1", "x"), ("", "x"), ("NOTIFY_SOCKET", "x"), ("A", "\0"), ("A", "\udc80")]
)
def test_variables_that_systemd_would_not_take_are_refused(name: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        environment_text("svc", {name: value})
    assert caught.value.code == "bad-variable"


def test_what_stands_in_a_unit_may_be_read_by_everybody(tmp_path: Path) -> None:
    text = unit_of(rendering(tmp_path)).text
    assert 'Environment="PLAIN=1"\n' in text
    assert "s3cr3t" not in text
    own = {"HF_TOKEN": "x", "LINES": "a\nb", "LD_PRELOAD": "x", "URL": "http://me:pw@x", "PORT": "1"}
    assert public_variables(Resolved("/x", ("x",), own, {}, Path("/"))) == {"PORT": "1"}


def test_the_users_manager_gets_only_what_needs_no_rights(tmp_path: Path) -> None:
    system, user = unit_of(rendering(tmp_path)).text, unit_of(rendering(tmp_path, "user")).text
    assert "ProtectSystem=full\n" in system
    assert "Protect" not in user.replace("ProtectClock=", "")
    for text in (system, user):
        lines = text.splitlines()
        assert not [
            line
            for line in lines
            if line.startswith(("PrivateDevices=", "ProtectClock=", "DevicePolicy=", "MemoryDeny"))
        ]
        assert "[Install]" not in lines


def test_a_units_marks(tmp_path: Path) -> None:
    unit = unit_of(rendering(tmp_path))
    marks = units.marks_of(unit.text)
    assert (marks["Home"], marks["Service"], marks["Template"]) == ("0" * 12, "svc", "unit.service.j2")
    assert not units.was_edited(unit.text)
    assert units.was_edited(unit.text.replace("RestartSec=10", "RestartSec=11"))
    assert units.marks_of("[Service]\nHome=x\n") == {}


# --- as whom it runs ------------------------------------------------------------------------------------------------

MYSELF = pwd.getpwuid(os.geteuid()).pw_name
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: nobody else runs services as others")


@as_root
def test_units_of_roots_home_run_as_the_user_that_is_set(tmp_path: Path) -> None:
    plain, set_ = unit_of(rendering(tmp_path)).text, unit_of(rendering(tmp_path, user="nobody")).text
    group = grp.getgrgid(pwd.getpwnam("nobody").pw_gid).gr_name
    added = set(set_.splitlines()) - set(plain.splitlines())
    assert {line for line in added if not line.startswith(("ExecStopPost=", "#", "Text="))} == {
        "User=nobody",
        f"Group={group}",
    }
    assert "\nExecStopPost=-!/bin/sh -c 'echo " in set_
    assert f"\nEnvironmentFile={tmp_path}/services/svc/.run/environment\n" in set_
    assert rendering(tmp_path, user="nobody").is_anothers()
    assert not rendering(tmp_path, user="root").is_anothers()
    assert "User=" not in unit_of(rendering(tmp_path, "user", user="nobody")).text  # whose start is refused


@as_root
def test_a_template_that_has_its_user_read_roots_variables_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "own.j2"
    own.write_text("[Service]\nExecStart=/bin/sh -c '. $0' {{ environment_file | systemd_word }}\n")
    with pytest.raises(Failed) as caught:
        unit_of(rendering(tmp_path / "home", user="nobody"), unit_template=str(own))
    assert (caught.value.code, "EnvironmentFile=" in caught.value.info.why) == ("bad-template", True)


def test_only_the_owner_of_a_home_that_is_not_roots_can_be_set(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    if os.geteuid() == 0:
        os.chown(home, pwd.getpwnam("nobody").pw_uid, -1)
    owner, other = ("nobody", "root") if os.geteuid() == 0 else (MYSELF, "root")
    assert unit_of(rendering(home, user=owner)).text == unit_of(rendering(home)).text
    for name, why in ((other, "not root's"), ("nobody-of-this-name", "no such user")):
        with pytest.raises(UsageError, match=name) as caught:
            unit_of(rendering(home, user=name))
        assert why in caught.value.info.why
        with pytest.raises(UsageError) as caught:
            named_user(name, home)
        assert caught.value.code == "bad-setting"


@as_root
def test_what_changes_no_user_refuses_to_start_as_root(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        refuse_other_user(Settings(user="nobody"), tmp_path, "svc")
    assert caught.value.code == "cannot-change-user"
    refuse_other_user(Settings(user="root"), tmp_path, "svc")
    refuse_other_user(Settings(), tmp_path, "svc")


@pytest.mark.parametrize("restart", ["no", "on-failure"])
def test_the_setting_decides_who_restarts(tmp_path: Path, restart: str) -> None:
    assert f"\nRestart={restart}\n" in unit_of(rendering(tmp_path, unit_restart=restart)).text


def test_a_home_that_systemd_would_take_for_a_pattern(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        unit_of(rendering(tmp_path / "a[b]*"))
    assert caught.value.code == "bad-home"


@pytest.mark.parametrize("scope", ["user", "system"])
@pytest.mark.parametrize("text", ["a\nExecStartPre=/bin/sh", "a\r", "\0", "a\x1b[2J", "\u2028", "a\u202e"])
def test_no_driver_can_bring_a_line_into_a_unit(tmp_path: Path, scope: Any, text: str) -> None:
    """Whatever a definition holds is looked at before; what a driver makes of it is looked at here."""
    made = rendering(tmp_path, scope)
    service = Service(id="svc", driver="none")
    handle = Handle(service="svc", supervisor="x", nonce="", launched=service, started_at=0)

    def unit(program: str = "/bin/true", word: str = "a", cwd: str = "/srv", **env: str) -> str:
        launch = Launch(argv=("true", word), env=env)
        return made.unit(handle, launch, Resolved(program, launch.argv, env, {}, Path(cwd))).text

    assert unit(WORD=text) == unit()  # it is given in the file of variables, which systemd takes it from as it is
    for hostile in ({"word": text}, {"program": f"/bin/{text}"}, {"cwd": f"/srv/{text}"}):
        with pytest.raises(UsageError) as caught:
            unit(**hostile)
        assert caught.value.code == "bad-unit-text"


def test_a_service_may_carry_its_own_template(tmp_path: Path) -> None:
    own = tmp_path / "own.j2"
    own.write_text('{% extends "unit.service.j2" %}{% block service %}Nice=7\n{% endblock %}')
    unit = unit_of(rendering(tmp_path / "home"), unit_template=str(own))
    assert "\nNice=7\n" in unit.text
    assert unit.template == str(own)


def test_names_of_units(tmp_path: Path) -> None:
    usual = Path(pwd.getpwuid(os.geteuid()).pw_dir) / ".local/share/gpumod"  # whatever HOME says
    assert units.unit_name("a.b", tmp_path, "f" * 12, "user") == f"gpumod-a.b.{'f' * 12}.service"
    mine = units.unit_name("chat", usual, "f" * 12, "user")
    assert mine == "gpumod-chat.service"
    assert (units.unit_name("chat", usual, "f" * 12, "system") == mine) == (os.geteuid() == 0)


# --- paths and programs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["relative", "/a/../b", "/a ", "/a\\", "/a\nb", ""])
def test_paths_that_a_unit_cannot_name(path: str) -> None:
    for escape in (systemd_path, systemd_program):
        with pytest.raises(UsageError) as caught:
            escape(path)
        assert caught.value.code == "bad-unit-text"


@pytest.mark.parametrize("path", ["/it's", '/a"b', "/a\\b"])
def test_programs_that_systemd_would_not_start(path: str) -> None:
    assert systemd_path(path) == path
    with pytest.raises(UsageError, match="a unit cannot start"):
        systemd_program(path)


def test_paths_by_name() -> None:
    assert systemd_path('/a "b" 50% $x') == '/a "b" 50%% $x'
    assert systemd_program("/a b/$x%") == '"/a b/$x%%"'


# --- where there is no systemd --------------------------------------------------------------------------------------


def test_a_machine_without_a_users_manager(tmp_path: Path) -> None:
    if Path(f"/run/user/{os.geteuid()}/systemd").exists():
        pytest.skip("this user has a manager")
    for environ in ({}, {"XDG_RUNTIME_DIR": str(tmp_path)}):
        with pytest.raises(MachineLacks) as caught:
            Manager("user", environ).reach()
        assert caught.value.code == "no-user-manager"
        assert caught.value.exit_code == 9


def test_the_named_folder_of_a_manager_comes_first(tmp_path: Path) -> None:
    (tmp_path / "systemd").mkdir()
    assert runtime_dir({"XDG_RUNTIME_DIR": str(tmp_path)}) == tmp_path


# --- how it ended ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("n i success exited 0\n", 0),
        ("n i exit-code exited 143\n", 143),
        ("n i signal killed KILL\n", -9),
        ("n i core-dump dumped ABRT\n", -6),
        ("n i oom-kill killed 9\n", -9),
        ("- - success - -\n", None),
    ],
)
def test_endings(tmp_path: Path, text: str, code: int | None) -> None:
    (tmp_path / "ended").write_text(text)
    ending = ending_at(tmp_path / "ended")
    assert ending is not None
    assert ending.code == code


@pytest.mark.parametrize("text", ["", "n i", "\0", "a b c d e f"])
def test_half_an_ending_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "ended").write_text(text)
    assert ending_at(tmp_path / "ended") is None
    assert ending_at(tmp_path / "nothing") is None


def test_what_is_there_must_be_ours(tmp_path: Path) -> None:
    path = tmp_path / "x.service"
    assert units.there(path, OURS, "svc") is None
    path.write_text("[Service]\n")
    with pytest.raises(Failed) as caught:
        units.there(path, OURS, "svc")
    assert caught.value.code == "foreign-unit"
    assert not units.remove(path, OURS, "svc")
    path.write_text(unit_of(rendering(tmp_path / "home")).text)
    assert units.remove(path, OURS, "svc")
    assert not path.exists()


def test_another_users_home_may_have_the_same_id(tmp_path: Path) -> None:
    """Its owner writes the file with the id; the unit tells whose it is."""
    path, text = tmp_path / "gpumod-svc.service", unit_of(rendering(tmp_path / "home")).text
    path.write_text(text)
    assert list(units.of_home(tmp_path, OURS)) == [("svc", path)]
    for home in (OURS._replace(owner=OURS.owner + 1), OURS._replace(home_id="1" * 12)):
        with pytest.raises(Failed) as caught:
            units.there(path, home, "svc")
        assert caught.value.code == "foreign-unit"
        assert list(units.of_home(tmp_path, home)) == []
        assert not units.remove(path, home, "svc")
    assert path.read_text() == text


@pytest.mark.parametrize("user", ["nobody", str(NOBODY), None])
def test_units_that_do_not_tell_their_homes_owner_are_that_of_whom_they_run_as(
    tmp_path: Path, user: str | None
) -> None:
    path = tmp_path / "gpumod-svc.service"
    text = unit_of(rendering(tmp_path / "home")).text.replace(f"Owner={os.geteuid()}\n", "")
    path.write_text(text.replace("Type=exec", f"Type=exec\nUser={user}") if user else text)
    nobodys = OURS._replace(owner=NOBODY)
    theirs, others = (nobodys, OURS._replace(owner=NOBODY - 1)) if user else (OURS, nobodys)
    assert units.there(path, theirs, "svc") is not None
    with pytest.raises(Failed):
        units.there(path, others, "svc")
    assert units.there(path, OURS._replace(owner=0), "svc") is not None, "root's own id nobody can use"


@pytest.mark.parametrize("anothers", [pytest.param(True, marks=as_root), False])
@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "link", "link to nothing", "endless", "folder"])
def test_only_a_plain_file_can_be_a_unit(tmp_path: Path, kind: str, anothers: bool) -> None:
    """One who has such a folder would have root wait for a pipe, or read what never ends."""
    folder, elsewhere = tmp_path / "units", tmp_path / "elsewhere"
    folder.mkdir()
    path = folder / "gpumod-svc.service"
    text = unit_of(rendering(tmp_path / "home")).text
    if kind.startswith("link"):
        path.symlink_to(elsewhere)
        os.mkfifo(elsewhere) if "pipe" in kind else elsewhere.write_text(text) if kind == "link" else None
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_text(text)
        os.truncate(path, 1 << 40)
    if anothers:
        for place in (folder, path):
            os.chown(place, NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(GpumodError) as caught:
        units.there(path, OURS, "svc")
    assert caught.value.code == ("foreign-unit" if kind.startswith("link") else "unit-unreadable")
    assert list(units.of_home(folder, OURS)) == []
    assert not units.remove(path, OURS, "svc")
