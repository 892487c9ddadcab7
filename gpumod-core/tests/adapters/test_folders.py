"""Root at work in another user's home: no link of that user's leads what root writes, removes or reads out of it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from gpumod.adapters.files import ensure_private_dir, home_id, remove_file, write_atomic
from gpumod.adapters.folders import owner_of
from gpumod.adapters.launches import refuse_anothers
from gpumod.adapters.process.proc import boot_id
from gpumod.adapters.process.records import Records
from gpumod.adapters.secrets import SecretFiles
from gpumod.adapters.store import migrate, open_store
from gpumod.adapters.store.opening import SCHEMA
from gpumod.adapters.systemd.rendering import runs_as
from gpumod.adapters.systemd.states import ending_at
from gpumod.adapters.template_shelf import TemplateShelf
from gpumod.bootstrap import open_gpumod
from gpumod.domain.errors import Failed, MachineLacks
from gpumod.ports import LaunchFile

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be led astray")
ALICE, BOB = 12345, 23456


class Alice:
    """A user's folder, with a home in it, and a folder of root's that the user wants changed."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder, self.home = tmp_path / "alice", tmp_path / "alice" / "home"
        self.etc = tmp_path / "etc"
        self.etc.mkdir()
        (self.etc / "environment").write_text("PATH=/usr/bin")
        for folder in (self.folder, self.home, self.home / "services", self.home / "services" / "x"):
            self.own(folder)

    def own(self, folder: Path, user: int = ALICE) -> Path:
        folder.mkdir()
        os.chown(folder, user, user)
        return folder

    def link(self, path: Path, target: Path) -> Path:
        path.symlink_to(target)
        os.lchown(path, ALICE, ALICE)
        return path

    def nothing_came_of_it(self) -> None:
        assert [path.name for path in self.etc.iterdir()] == ["environment"]
        assert (self.etc / "environment").read_text() == "PATH=/usr/bin"


@pytest.fixture
def alice(tmp_path: Path) -> Alice:
    return Alice(tmp_path)


@pytest.mark.parametrize("where", ["services/x/.run", "services/x", "services", "logs", "secrets", "templates"])
def test_a_link_in_anothers_home_leads_root_nowhere(alice: Alice, where: str) -> None:
    place = alice.home / where
    if place.exists():
        place.rename(alice.folder / "away")
    alice.link(place, alice.etc)

    def prepare() -> None:
        Records(alice.home).prepare("x")

    acts: list[Callable[[], object]] = [
        lambda: ensure_private_dir(place / "deeper" / "folder"),
        lambda: write_atomic(place / "environment", "LD_PRELOAD=/home/alice/evil.so", durable=False),
        lambda: remove_file(place / "environment"),
    ]
    acts += [prepare] if where.startswith(("services", "logs")) else []
    acts += [lambda: SecretFiles(alice.home).put("x", "A", "b")] if where == "secrets" else []
    acts += [lambda: TemplateShelf(alice.home, []).write("x.j2", "[Service]\nExecStart=/x\n")] * (where == "templates")
    for act in acts:
        with pytest.raises(Failed) as caught:
            act()
        assert caught.value.code == "bad-folder"
        assert str(place) in caught.value.info.message
        assert "a link to a folder of the user 0" in caught.value.info.why
        alice.nothing_came_of_it()


def test_what_is_written_for_a_service_stays_in_its_folder(alice: Alice) -> None:
    records = Records(alice.home)
    records.prepare("x")
    alice.link(alice.home / "services" / "x" / "sub", alice.etc)
    with pytest.raises(Failed) as caught:
        records.write("x", [LaunchFile(name="sub/environment", content="A=b")])
    assert caught.value.code == "bad-folder"
    alice.nothing_came_of_it()
    alice.link(alice.home / "services" / "x" / "config", alice.etc / "environment")
    records.write("x", [LaunchFile(name="config", content="A=b")])  # the link itself is replaced
    alice.nothing_came_of_it()
    assert (alice.home / "services" / "x" / "config").stat().st_uid == ALICE


def test_links_that_swap_while_root_writes_are_not_followed(alice: Alice) -> None:
    """A folder and a link change places between any two looks at the path."""
    place, link = alice.own(alice.home / "services" / "x" / ".run"), alice.link(alice.home / "link", alice.etc)
    done = threading.Event()
    exchange, here = ctypes.CDLL(None).renameat2, -100  # AT_FDCWD

    def swap() -> None:
        while not done.is_set():
            assert exchange(here, os.fsencode(place), here, os.fsencode(link), 2) == 0  # RENAME_EXCHANGE

    swapper = threading.Thread(target=swap)
    swapper.start()
    ends: Counter[str] = Counter()
    give_up = time.monotonic() + 30
    try:
        while min(ends["written"], ends["bad-folder"]) < 100 and time.monotonic() < give_up:
            try:
                ensure_private_dir(place / "deeper")
                write_atomic(place / "environment", "LD_PRELOAD=/home/alice/evil.so", durable=False)
                remove_file(place / "environment")
                ends["written"] += 1
            except Failed as error:
                ends[error.code] += 1
    finally:
        done.set()
        swapper.join()
    assert ends.keys() == {"written", "bad-folder"}, ends
    alice.nothing_came_of_it()


def test_ones_own_links_go_on_working(alice: Alice) -> None:
    """A user's data may lie on another disk: a link of the user's to the user's own folder is followed."""
    disk = alice.own(alice.folder.parent / "disk")
    elsewhere = alice.link(alice.folder / "data", disk)
    write_atomic(elsewhere / "file", "x")
    ensure_private_dir(elsewhere / "a" / "b")
    assert {path.stat().st_uid for path in disk.rglob("*")} == {ALICE}
    for folder, user in (("roots", 0), ("bobs", BOB)):
        target = alice.own(alice.folder.parent / folder, user)
        with pytest.raises(Failed):
            ensure_private_dir(alice.link(alice.folder / folder, target))
    mine = alice.folder.parent / "mine"
    mine.symlink_to(alice.etc)
    write_atomic(mine / "own", "x")  # in root's own folders root's own links are followed
    assert (alice.etc / "own").read_text() == "x"


@pytest.mark.parametrize("relative", [True, False])
def test_a_link_of_roots_into_a_users_folder_does_not_hide_that_user(alice: Alice, relative: bool) -> None:
    """The folder that it led to, be it root's, is where that user wants it, and something else is in its place."""
    links = alice.etc.parent / "links"
    links.mkdir()
    home, place = links / "gpumod", alice.folder / "gpumod"
    (links / "again").symlink_to(place)
    home.symlink_to("../links/again" if relative else links / "again")
    roots = alice.own(place, 0)
    assert (owner_of(home), owner_of(home / "services"), owner_of(links)) == (ALICE, ALICE, 0)
    with pytest.raises(MachineLacks):
        refuse_anothers(home, "x")
    ensure_private_dir(home / "services")
    roots.rename(alice.folder / "away")
    assert owner_of(home) == ALICE, "it is gone for a moment"
    with pytest.raises(Failed):
        ensure_private_dir(home)  # what a link leads to is not made: the disk may not be there
    alice.link(place, alice.etc / "nothing")
    assert owner_of(home) == ALICE
    place.unlink()
    alice.link(place, alice.etc)
    for ask in (lambda: owner_of(home), lambda: write_atomic(home / "file", "x")):
        with pytest.raises(Failed) as caught:
            ask()
        assert caught.value.code == "bad-folder"
        assert str(place) in caught.value.info.message
    alice.nothing_came_of_it()


def test_links_that_lead_nowhere_or_are_anybodys(alice: Alice) -> None:
    shared = alice.own(alice.etc.parent / "shared", 0)
    shared.chmod(0o1777)
    alice.link(shared / "alices", alice.etc)
    (shared / "roots").symlink_to(alice.etc)
    (shared / "round").symlink_to(shared / "round")
    with pytest.raises(PermissionError):
        write_atomic(shared / "alices" / "file", "x")
    with pytest.raises(OSError, match="symbolic links"):
        write_atomic(shared / "round" / "file", "x")
    with pytest.raises(NotADirectoryError):
        write_atomic(alice.etc / "environment" / "file", "x")
    alice.nothing_came_of_it()
    write_atomic(shared / "roots" / "file", "x")
    assert (alice.etc / "file").read_text() == "x"


def test_folders_that_lie_in_anothers_home_without_a_link(alice: Alice) -> None:
    alice.own(alice.home / "roots", 0)  # as one that was just made, and was not given away yet
    write_atomic(alice.home / "roots" / "file", "x")
    alice.own(alice.home / "bobs", BOB)
    for path in (alice.home / "bobs" / "file", alice.home / ".." / ".." / "etc" / "file"):
        with pytest.raises(Failed) as caught:
            write_atomic(path, "x")
        assert caught.value.code == "bad-folder"
    alice.nothing_came_of_it()
    with pytest.raises(NotADirectoryError):
        write_atomic(alice.home / "roots" / "file" / "below", "x")
    assert [path.name for path in (alice.home / "bobs").iterdir()] == []


def test_root_reads_no_secrets_through_links(alice: Alice) -> None:
    """They would be written into the file of variables, which the user reads."""
    roots = alice.etc.parent / "secret.json"
    roots.write_text('{"HF_TOKEN": "of root"}')
    roots.chmod(0o600)
    secrets = SecretFiles(alice.home)
    secrets.put("x", "A", "b")
    path = alice.home / "secrets" / "x.json"
    assert secrets.values("x") == {"A": "b"}
    for lead in (alice.link, lambda there, target: os.link(target, there)):
        path.unlink()
        lead(path, roots)
        with pytest.raises(Failed) as caught:
            secrets.values("x")
        assert caught.value.code == "bad-secrets"
        assert "of root" not in str(caught.value.info)


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "folder's link"])
@pytest.mark.parametrize("name", ["run.json", "exit.json", "ended", "x.log", "home-id"])
def test_root_reads_no_record_or_log_that_is_not_the_users(alice: Alice, kind: str, name: str) -> None:
    """What only root may read would be told in the user's database, and root would wait for what is no file."""
    records = Records(alice.home)
    records.prepare("x")
    token = {"pid": 1, "pid_started": 1, "shim_pid": 1, "shim_started": 1, "boot": boot_id()}
    texts = {
        "run.json": json.dumps({"nonce": "n", "token": token}),
        "exit.json": json.dumps({"nonce": "n", "code": 7, "empty": True}),
        "ended": "n i exit-code exited 7",
        "x.log": "of root",
        "home-id": "0123456789ab",
    }
    folder = {"x.log": alice.home / "logs", "home-id": alice.home}.get(name, records.run_folder("x"))
    file, roots = folder / name, alice.etc / name
    roots.write_text(texts[name])

    ask: Callable[[], object] = {
        "run.json": lambda: records.last_run("x"),
        "exit.json": lambda: records.exit("x", "n")[0],
        "ended": lambda: ending_at(file),
        "x.log": lambda: "of root" in "".join(records.last_lines("x", 5)),
        "home-id": lambda: home_id(alice.home),
    }[name]
    write_atomic(file, texts[name])
    assert ask()
    file.unlink()
    if kind == "folder's link":
        folder.rename(alice.folder / "away")
        alice.link(folder, alice.etc)
    elif kind == "link":
        alice.link(file, roots)
    elif kind == "hard link":
        os.link(roots, file)
    else:
        os.mkfifo(file)
        os.chown(file, ALICE, ALICE)
    with pytest.raises(Failed) if name == "home-id" else contextlib.nullcontext():
        assert not ask()


@pytest.mark.parametrize("name", ["gpumod.db", "gpumod.db-wal", "gpumod.db-shm", "gpumod.db-journal"])
def test_root_opens_no_database_through_links(alice: Alice, name: str) -> None:
    (alice.home / "home-id").write_text("0123456789ab\n")
    open_store(alice.etc / "gpumod.db").close()  # root's own
    roots = (alice.etc / "gpumod.db").read_bytes()
    with contextlib.closing(open_store(alice.home / "gpumod.db")):
        assert {path.stat().st_uid for path in alice.home.iterdir() if path.name.startswith("gpumod.db")} == {ALICE}
    (alice.home / name).unlink(missing_ok=True)
    alice.link(alice.home / name, alice.etc / "gpumod.db")
    with pytest.raises(Failed) as caught:
        open_gpumod(alice.home, {})
    assert caught.value.code == "bad-folder"
    assert name in caught.value.info.message
    (alice.home / name).unlink()
    os.link(alice.etc / "gpumod.db", alice.home / name)
    with pytest.raises(Failed) as caught:
        open_gpumod(alice.home, {})
    assert "no file of the user" in caught.value.info.why
    assert (alice.etc / "gpumod.db").read_bytes() == roots


def test_what_is_made_beside_a_database_follows_no_link(alice: Alice) -> None:
    victim = alice.etc / "environment"
    path = alice.home / "gpumod.db"
    for end in (".new", ".new-wal"):
        alice.link(path.with_name(path.name + end), victim)
    open_store(path).close()
    alice.nothing_came_of_it()
    assert not path.with_name("gpumod.db.new").is_symlink()
    lock = path.with_name("gpumod.db.lock")
    assert lock.stat().st_uid == ALICE
    lock.unlink()
    alice.link(lock, alice.etc / "nologin")
    with pytest.raises(OSError, match="symbolic links"):
        migrate.upgrade_file(path, SCHEMA)
    alice.nothing_came_of_it()


def test_a_homes_id_is_made_where_the_home_is(alice: Alice) -> None:
    alice.link(alice.home / "home-id", alice.etc / "absent")
    with pytest.raises(Failed) as caught:
        home_id(alice.home)
    assert caught.value.code == "bad-home-id"
    alice.nothing_came_of_it()


def test_whose_a_home_is_does_not_change_with_what_its_owner_puts_there(alice: Alice) -> None:
    """Else units of the system's manager would run what that user says, and as root."""
    assert owner_of(alice.etc) == 0
    assert (owner_of(alice.home), runs_as(alice.home, "system")) == (ALICE, str(ALICE))
    alice.home.rename(alice.folder / "away")
    assert owner_of(alice.home / "services") == ALICE, "it is gone for a moment"
    alice.own(alice.home, 0)  # a folder of root's, which its owner found and moved there
    with pytest.raises(MachineLacks) as lacking:
        refuse_anothers(alice.home, "x")
    assert lacking.value.code == "anothers-home"
    alice.home.rmdir()
    alice.link(alice.home, alice.etc)
    for ask in (lambda: refuse_anothers(alice.home, "x"), lambda: runs_as(alice.home, "system")):
        with pytest.raises(Failed) as caught:
            ask()
        assert caught.value.code == "bad-folder"
