"""SEC-D7 to SEC-D10: attempts to get past them are refused, when the service is defined and again when it starts.

Each attempt is (what it tries, the options, what the message must say). Paths with HOME or TMP first are filled in.
"""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from gpumod.api import Allocation, Handle, Launch, Service, Settings, UsageError
from gpumod_docker.supervisor import DockerSupervisor

Attempt = tuple[str, dict[str, Any], str]
DIGEST = "sha256:" + "0" * 64

ROOT: list[Attempt] = [
    ("privileged", {"privileged": True}, "SEC-D7"),
    ("privileged, as false", {"privileged": False}, "SEC-D7"),
    ("privileged, otherwise spelt", {"Privileged": "true"}, "SEC-D7"),
    ("privileged, with blanks", {"privi_leged": 1}, "SEC-D7"),
    ("all capabilities", {"cap_add": ["ALL"]}, "SEC-D7"),
    ("one capability", {"CapAdd": "SYS_ADMIN"}, "SEC-D7"),
    ("its own dropping of capabilities", {"cap_drop": []}, "SEC-D7"),
    ("a device", {"devices": ["/dev/mem:/dev/mem:rwm"]}, "SEC-D7"),
    ("a rule for devices", {"device_cgroup_rules": ["a *:* rwm"]}, "SEC-D7"),
    ("no seccomp", {"security_opt": ["seccomp=unconfined"]}, "SEC-D7"),
    ("no AppArmor", {"security_opt": ["apparmor=unconfined"]}, "SEC-D7"),
    ("no SELinux labels", {"security-opt": ["label=disable"]}, "SEC-D7"),
    ("new privileges", {"security_opt": ["no-new-privileges:false"]}, "SEC-D7"),
    ("bare system paths", {"SecurityOpt": ["systempaths=unconfined"]}, "SEC-D7"),
    ("nothing masked", {"masked_paths": []}, "SEC-D7"),
    ("nothing read-only in /proc", {"readonly_paths": []}, "SEC-D7"),
    ("another runtime", {"runtime": "sysbox-runc"}, "SEC-D7"),
    ("more groups", {"group_add": ["docker"]}, "SEC-D7"),
    ("another isolation", {"isolation": "host"}, "SEC-D7"),
    ("a raw host configuration", {"host_config": {"Privileged": True}}, "host_config"),
    ("more arguments", {"extra_args": ["--privileged"]}, "extra_args"),
    ("all GPUs", {"device_requests": [{"Count": -1}]}, "plan"),
    ("all GPUs, as by the command line", {"gpus": "all"}, "plan"),
    ("kernel settings", {"sysctls": {"kernel.core_pattern": "|/x"}}, "kernel"),
    ("never out of memory", {"oom_kill_disable": True}, "memory management"),
    ("others out of memory first", {"oom_score_adj": -1000}, "memory management"),
    ("storage options", {"storage_opt": {"size": "1P"}}, "kernel"),
    ("an init of its own", {"init_path": "/evil"}, "gpumod itself"),
    ("a restart behind gpumod's back", {"restart": "always"}, "gpumod itself"),
    ("no trace afterwards", {"auto_remove": True}, "gpumod itself"),
    ("somebody else's labels", {"labels": {"gpumod.home": "0" * 12}}, "gpumod itself"),
    ("somebody else's name", {"container_name": "db"}, "gpumod itself"),
    ("a log that is sent away", {"log_config": {"Type": "syslog"}}, "gpumod itself"),
    ("a build", {"build": "."}, "gpumod itself"),
]
NETWORK: list[Attempt] = [
    ("the machine's network", {"network_mode": "host"}, "SEC-D8"),
    ("the machine's network, shorter", {"network": "host"}, "SEC-D8"),
    ("the machine's network, as by the command line", {"net": "host"}, "SEC-D8"),
    ("another container's network", {"network_mode": "container:db"}, "SEC-D8"),
    ("a macvlan", {"network_mode": "macvlan0"}, "SEC-D8"),
    ("several networks", {"networks": ["lan"]}, "SEC-D8"),
    ("an endpoint's configuration", {"networking_config": {"lan": {}}}, "SEC-D8"),
    ("links", {"links": ["db:db"]}, "SEC-D8"),
    ("names of other hosts", {"extra_hosts": ["hub:10.0.0.1"]}, "SEC-D8"),
    ("a name server", {"dns": ["10.0.0.1"]}, "SEC-D8"),
    ("a hardware address", {"mac_address": "02:42:ac:11:00:02"}, "SEC-D8"),
    ("every port published", {"publish_all_ports": True}, "SEC-D8"),
    ("the machine's processes", {"pid_mode": "host"}, "SEC-D8"),
    ("the machine's processes, as by the command line", {"pid": "host"}, "SEC-D8"),
    ("another container's memory", {"ipc_mode": "container:db"}, "SEC-D8"),
    ("the machine's memory segments", {"ipc": "host"}, "SEC-D8"),
    ("the machine's name", {"uts_mode": "host"}, "SEC-D8"),
    ("no user namespace", {"userns_mode": "host"}, "SEC-D8"),
    ("the machine's control groups", {"cgroupns": "host"}, "SEC-D8"),
    ("another control group", {"cgroup_parent": "/"}, "SEC-D8"),
    ("a port for everybody", {"ports": ["0.0.0.0:7850:8000"]}, "SEC-D8"),
    ("a port for everybody, by IPv6", {"ports": ["[::]:7850:8000"]}, "SEC-D8"),
    ("a port at an address of the machine", {"ports": "192.168.1.2:7850:8000"}, "SEC-D8"),
    ("a port at no address", {"ports": [":7850:8000"]}, "SEC-D8"),
    ("a port of the system's", {"ports": ["22:22"]}, "below 1024"),
    ("a UDP port", {"ports": ["7850:8000/udp"]}, "TCP"),
    ("a range of ports", {"ports": ["7850-7900:8000-8050"]}, "no port"),
    ("a port beyond all ports", {"ports": ["77777:8000"]}, "65535"),
    ("one port twice", {"ports": ["7850:8000", "7850:8001"]}, "twice"),
]
MOUNTS: list[Attempt] = [
    ("everything", {"volumes": ["/:/host"]}, "SEC-D9"),
    ("the passwords", {"volumes": ["/etc:/x"]}, "SEC-D9"),
    ("one file of the passwords", {"volumes": ["/etc/shadow:/x"]}, "SEC-D9"),
    ("the kernel's files", {"volumes": ["/proc:/x"]}, "SEC-D9"),
    ("a way round by /proc", {"volumes": ["/proc/self/root" + "/etc:/x"]}, "SEC-D9"),
    ("the machine's devices", {"volumes": ["/sys:/x"]}, "SEC-D9"),
    ("its disks", {"volumes": ["/dev/sda:/x"]}, "SEC-D9"),
    ("the engine's socket", {"volumes": ["/var/run/docker.sock:/var/run/docker.sock"]}, "SEC-D9"),
    ("the engine's socket, where it really is", {"volumes": ["/run/docker.sock:/s"]}, "SEC-D9"),
    ("the folder of the socket", {"volumes": ["/run:/x"]}, "SEC-D9"),
    ("another engine's socket", {"volumes": ["/run/podman/podman.sock:/s"]}, "SEC-D9"),
    ("other containers", {"volumes": ["/var/lib/docker:/x"]}, "SEC-D9"),
    ("what holds other containers", {"volumes": ["/var/lib:/x"]}, "SEC-D9"),
    ("all of /var", {"volumes": ["/var:/x"]}, "SEC-D9"),
    ("a socket of machines", {"volumes": ["/var/lib/incus:/x"]}, "SEC-D9"),
    ("a socket of machines, as snaps have it", {"volumes": ["/var/snap/lxd/common/lxd:/x"]}, "SEC-D9"),
    ("a cluster's keys", {"volumes": ["/var/lib/rancher/k3s/server:/x"]}, "SEC-D9"),
    ("the boot files", {"volumes": ["/boot:/x"]}, "SEC-D9"),
    ("the machine's programs", {"volumes": ["/usr/bin:/x:rw"]}, "SEC-D9"),
    ("everybody's files and sockets", {"volumes": ["/tmp:/x"]}, "SEC-D9"),
    ("everybody's files, where they last", {"volumes": ["/var/tmp:/x:rw"]}, "SEC-D9"),
    ("jobs of the system", {"volumes": ["/var/spool/cron:/x:rw"]}, "SEC-D9"),
    ("root's home", {"volumes": ["/root:/x"]}, "SEC-D9"),
    ("root's keys", {"volumes": ["/root" + "/.ssh:/x"]}, "SEC-D9"),
    ("all homes", {"volumes": ["/home:/x"]}, "SEC-D9"),
    ("somebody's home", {"volumes": ["/home/ann:/x"]}, "SEC-D9"),
    ("somebody's keys", {"volumes": ["/home/ann/.ssh:/x"]}, "SEC-D9"),
    ("somebody's cloud", {"volumes": ["/home/ann/.aws/credentials:/x"]}, "SEC-D9"),
    ("up and down again", {"volumes": ["/srv/../etc:/x"]}, "SEC-D9"),
    ("up and down again, in there", {"volumes": ["/srv:/x/../etc"]}, "SEC-D9"),
    ("two slashes", {"volumes": ["//etc:/x"]}, "SEC-D9"),
    ("a path that is none", {"volumes": ["./etc:/x"]}, "SEC-D9"),
    ("a home by its sign", {"volumes": ["~/.ssh:/x"]}, "SEC-D9"),
    ("a variable", {"volumes": ["$HOME/.ssh:/x"]}, "SEC-D9"),
    ("shared mounts", {"volumes": ["/srv:/x:rw,shared"]}, "SEC-D9"),
    ("mounts that come back", {"volumes": ["/srv:/x:rslave"]}, "SEC-D9"),
    ("another label", {"volumes": ["/srv:/x:Z"]}, "SEC-D9"),
    ("a comma that engines take apart", {"volumes": ["/srv/a,source=/etc:/x"]}, "SEC-D9"),
    ("over the container's devices", {"volumes": ["/srv:/dev"]}, "SEC-D9"),
    ("over the container's root", {"volumes": ["/srv:/"]}, "SEC-D9"),
    ("over the container's programs", {"volumes": ["/srv:/usr"]}, "SEC-D9"),
    ("over the container's init", {"volumes": ["/srv:/sbin/docker-init"]}, "SEC-D9"),
    ("mounts, as the engine has them", {"mounts": [{"Type": "bind", "Source": "/", "Target": "/x"}]}, "SEC-D9"),
    ("binds, as the engine has them", {"binds": ["/:/x"]}, "SEC-D9"),
    ("another container's volumes", {"volumes_from": ["db"]}, "SEC-D9"),
    ("a volume driver", {"volume_driver": "local"}, "SEC-D9"),
    ("a file system in memory over /etc", {"tmpfs": {"/etc": ""}}, "SEC-D9"),
    ("one target twice", {"volumes": ["/srv/a:/x", "/srv/b:/x"]}, "same target"),
    ("one target twice, spelt otherwise", {"volumes": ["/srv/a:/x", "/srv/b:/x/"]}, "same target"),
    ("gpumod's own home", {"volumes": ["HOME/gpumod:/x"]}, "SEC-D9"),
    ("secrets in gpumod's home", {"volumes": ["HOME/gpumod/secrets:/x"]}, "SEC-D9"),
    ("what holds gpumod's home", {"volumes": ["HOME:/x"]}, "SEC-D9"),
    ("a link to /etc", {"volumes": ["TMP/link-to-etc:/x"]}, "SEC-D9"),
    ("a link on the way", {"volumes": ["TMP/link-to-etc/ssh:/x"]}, "SEC-D9"),
    ("a link to a link", {"volumes": ["TMP/link-to-link:/x"]}, "SEC-D9"),
    ("a socket", {"volumes": ["TMP/socket:/x"]}, "SEC-D9"),
    ("a pipe", {"volumes": ["TMP/pipe:/x:rw"]}, "SEC-D9"),
]
WORDS: list[Attempt] = [
    ("another loader", {"environment": {"LD_PRELOAD": "/x.so"}}, "LD_PRELOAD"),
    ("other libraries", {"environment": ["LD_LIBRARY_PATH=/x"]}, "LD_LIBRARY_PATH"),
    ("other programs", {"environment": {"PATH": "/x"}}, "PATH"),
    ("all GPUs, by NVIDIA's runtime", {"environment": {"NVIDIA_VISIBLE_DEVICES": "all"}}, "NVIDIA_VISIBLE_DEVICES"),
    ("the driver's other powers", {"environment": {"NVIDIA_DRIVER_CAPABILITIES": "all"}}, "SEC-D10"),
    ("no checks in NVIDIA's runtime", {"environment": {"NVIDIA_DISABLE_REQUIRE": "1"}}, "SEC-D10"),
    ("the same in small letters", {"environment": {"nvidia_visible_devices": "all"}}, "SEC-D10"),
    ("other GPUs", {"environment": {"CUDA_VISIBLE_DEVICES": "0,1"}}, "CUDA_VISIBLE_DEVICES"),
    ("another order of GPUs", {"environment": {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}}, "SEC-D10"),
    ("gpumod's own words", {"environment": {"GPUMOD_HOME_ID": "x"}}, "GPUMOD_HOME_ID"),
    ("another engine", {"environment": {"DOCKER_HOST": "tcp://x"}}, "SEC-D10"),
    ("Python's modules", {"environment": {"PYTHONPATH": "/x"}}, "PYTHONPATH"),
    ("a shell's beginning", {"environment": {"BASH_ENV": "/x"}}, "BASH_ENV"),
    ("a name that is none", {"environment": {"A B": "1"}}, "no name"),
    ("a name with its value in it", {"environment": {"A=B": "1"}}, "no name"),
    ("an empty name", {"environment": {"": "1"}}, "no name"),
    ("a value that breaks the line", {"environment": {"A": "1\nLD_PRELOAD=/x"}}, "SEC-D10"),
    ("a value with an escape", {"environment": {"A": "\x1b[2J"}}, "SEC-D10"),
    ("a value of a megabyte", {"environment": {"A": "x" * 1_000_000}}, "long"),
    ("a value that is a list", {"environment": {"A": ["1"]}}, "text"),
    ("a thousand variables", {"environment": {f"A{n}": "1" for n in range(1000)}}, "1000 variables"),
    ("a variable of the engine's side", {"environment": ["SECRET"]}, "NAME=VALUE"),
    ("one variable twice", {"environment": ["A=1", "A=2"]}, "twice"),
    ("a flag for an image", {"image": "--privileged"}, "image"),
    ("an image from a path", {"image": "../../etc"}, "image"),
    ("an image with a blank", {"image": "a --privileged"}, "image"),
    ("an image from an address", {"image": "http://evil/a"}, "image"),
    ("half a digest", {"image": f"a@{DIGEST[:-1]}"}, "image"),
    ("a user that is a flag", {"user": "--privileged"}, "user"),
    ("a user with a path", {"user": "0:0:/"}, "user"),
    ("a folder that is none", {"workdir": "etc"}, "workdir"),
    ("a program that is a flag", {"program": "--rm"}, "program"),
    ("an option that nobody knows", {"do_as_i_say": True}, "unknown option"),
    ("memory below zero", {"memory_mb": -1}, "memory_mb"),
    ("shared memory without end", {"shm_size_mb": 10**12}, "shm_size_mb"),
    ("an image that is pulled otherwise", {"pull": "as-root"}, "pull"),
    ("GPUs in another way", {"gpu_access": "all"}, "gpu_access"),
]
ATTEMPTS = [*ROOT, *NETWORK, *MOUNTS, *WORDS]


class Now:
    """The real clock."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing is waited for")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A home with gpumod's in it, links and other odd things; and an engine that nobody answers for."""
    odd, home = tmp_path / "odd", tmp_path / "user"
    (home / "gpumod").mkdir(parents=True)
    odd.mkdir()
    (odd / "link-to-etc").symlink_to("/etc")
    (odd / "link-to-link").symlink_to(odd / "link-to-etc")
    os.mkfifo(odd / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(odd)  # a socket's name must be short
        listener.bind("socket")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    return {"HOME": str(home), "TMP": str(odd)}


def filled(options: dict[str, Any], places: dict[str, str]) -> dict[str, Any]:
    text = json.dumps(options)
    for name, place in places.items():
        text = text.replace(f'"{name}/', f'"{place}/').replace(f'"{name}:', f'"{place}:')
    return dict(json.loads(text))


def both(options: dict[str, Any]) -> list[Service]:
    """The same options as a container's own service, and as the container of another driver's."""
    inner = {"command": "serve", "container": options}
    return [
        Service.model_construct(**{**Service(id="svc", driver="docker", port=7850).__dict__, "unit_vars": options}),
        Service.model_construct(**{**Service(id="svc", driver="fastapi", port=7850).__dict__, "unit_vars": inner}),
    ]


def test_there_are_enough_attempts() -> None:
    assert len(ATTEMPTS) >= 60
    assert len({what for what, _, _ in ATTEMPTS}) == len(ATTEMPTS)


@pytest.mark.parametrize(("what", "options", "word"), ATTEMPTS, ids=[what for what, _, _ in ATTEMPTS])
async def test_attempts_are_refused(what: str, options: dict[str, Any], word: str, places: dict[str, str]) -> None:
    """By the definition's check, by the check before a run, and by the start itself, which never asks the engine."""
    supervisor = DockerSupervisor(Path(places["HOME"], "gpumod"), "0123456789ab", Settings(), Now())
    for service in both(filled({"image": "a", **options}, places)):
        with pytest.raises(ValueError, match="svc") as defined:
            supervisor.check_service(service, Settings())
        assert word in str(defined.value), defined.value
        handle = Handle.model_construct(
            service="svc", supervisor="docker", nonce="n", token={}, launched=service, started_at=0.0
        )
        with pytest.raises(UsageError) as checked:
            supervisor.check(handle, Launch(argv=("serve",)))
        with pytest.raises(UsageError) as started:
            await supervisor.start(handle, Launch(argv=("serve",)), {})
        assert checked.value.info == started.value.info
        assert word in started.value.info.why
        assert len(started.value.info.why) < 1000, "what was tried is not repeated at length"
    assert list(Path(places["HOME"], "gpumod").iterdir()) == []


def test_what_is_no_attempt_passes(places: dict[str, str], tmp_path: Path) -> None:
    """The tests above would pass too if everything was refused."""
    (tmp_path / "models").mkdir()
    options = {
        "image": "registry:5000/a/b:1", "ports": ["7850:8000"], "environment": {"HF_TOKEN": "x y\t'"},
        "shm_size_mb": 64,
        "volumes": [f"{tmp_path}/models:/models", "named:/data:rw"], "user": "1000:1000", "workdir": "/app",
    }  # fmt: skip
    supervisor = DockerSupervisor(Path(places["HOME"], "gpumod"), "0123456789ab", Settings(), Now())
    for service in both(options):
        supervisor.check_service(service, Settings())


@pytest.mark.parametrize("variable", ["NVIDIA_DRIVER_CAPABILITIES", "DOCKER_HOST", "LD_PRELOAD", "nvidia_x"])
async def test_a_variable_by_another_way_is_refused(variable: str, places: dict[str, str]) -> None:
    """By the `env` of another driver, and as a secret."""
    supervisor = DockerSupervisor(Path(places["HOME"], "gpumod"), "0123456789ab", Settings(), Now())
    service = both({"image": "a"})[1]

    class Careless:
        def launch(self, *_: Any) -> Launch:
            return Launch(argv=("serve",), env={variable: "all"})

    with pytest.raises(ValueError, match="SEC-D10"):
        supervisor.launch(Careless(), service, Allocation(), Settings())  # type: ignore[arg-type]
    handle = Handle(service="svc", supervisor="docker", nonce="n", launched=service, started_at=0.0)
    for launch, secrets in ((Launch(argv=("a",), env={variable: "1"}), {}), (Launch(argv=("a",)), {variable: "1"})):
        with pytest.raises(UsageError) as caught:
            await supervisor.start(handle, launch, secrets)
        assert "SEC-D10" in caught.value.info.why
