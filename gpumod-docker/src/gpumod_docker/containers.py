"""Containers of one home: made, started, stopped and removed. Blocking; whose a container is, its labels tell."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gpumod.api import Failed, MachineLacks
from gpumod_docker.definition import DEFINITION, HOME, NONCE, SERVICE, Config, definition_hash, name_of
from gpumod_docker.engine import SLOW_S, said, spoken
from gpumod_docker.mounts import touch
from gpumod_docker.pids import has_begun
from gpumod_docker.states import Inspected, is_up

BEGINS_S = 5.0
DATA = "/var/lib/docker"
_LOOK_S = 0.002
_FATAL = "[FATAL "
"""How the engine's init begins the line in which it says that it could not execute a program."""


class Containers(NamedTuple):
    """The containers of the home `home_id` at the engine behind the socket `path`."""

    path: Path
    home_id: str

    def inspect(self, service: str) -> Inspected | None:
        """The container of a service; None where there is none. Raises Failed `foreign-container`."""
        import docker.errors  # noqa: PLC0415  # slow, and only needed to speak with an engine

        name = name_of(service, self.home_id)
        with spoken(self.path, f"look up the container {name}") as asked:
            try:
                seen: Inspected = asked.inspect_container(name)
            except docker.errors.NotFound:
                return None
        labels = seen.get("Config", {}).get("Labels") or {}
        if (labels.get(HOME), labels.get(SERVICE)) != (self.home_id, service):
            raise Failed(
                "foreign-container",
                f"there is a container {name} that is not gpumod's",
                why="it does not carry the labels of this home",
                hint=f"rename or remove it: docker rename {name} OTHER; gpumod does not touch it",
            )
        return seen

    def all(self) -> dict[str, Inspected]:
        """Every container of this home, by service."""
        with spoken(self.path, "list containers") as asked:
            rows = asked.containers(all=True, filters={"label": [f"{HOME}={self.home_id}"]})
        services = [str(row["Labels"].get(SERVICE, "")) for row in rows]
        return {service: seen for service in services if (seen := self.inspect(service)) is not None}

    def make(self, service: str, nonce: str, config: Config, image_id: str) -> str:
        """The id of the container of this definition: the one that is there if it is the same, else a new one.

        Raises Failed `engine-refused`, `foreign-container`.
        """
        definition = definition_hash(config, image_id)
        there = self.inspect(service)
        if there is not None and there["Config"]["Labels"].get(DEFINITION) == definition and _is_whole(there):
            return str(there["Id"])
        self.remove(service)
        labels = {HOME: self.home_id, SERVICE: service, NONCE: nonce, DEFINITION: definition}
        with spoken(self.path, f"create a container for {service}", SLOW_S) as asked:
            body = {**config, "Labels": labels}
            made = asked.create_container_from_config(  # type: ignore[no-untyped-call]  # its stub has no types
                body, name_of(service, self.home_id)
            )
            return str(made["Id"])

    def start(self, service: str, container: str) -> Inspected:
        """Start it, and tell of it once its program has really been executed (or has ended already).

        Nothing runs after an error: MachineLacks `missing-binary`, `no-gpu-runtime`, Failed `cannot-execute`,
        `port-taken`, `engine-refused`.
        """
        import docker.errors  # noqa: PLC0415  # as above

        try:
            with spoken(self.path, f"start the container of {service}", SLOW_S) as asked:
                try:
                    asked.start(container)
                except docker.errors.APIError as error:
                    raise _not_started(service, said(error)) from error
            return self._begun(service)
        except (Failed, MachineLacks):
            with contextlib.suppress(Failed, MachineLacks):  # why it did not start is what is told
                self.remove(service)
            raise

    def _begun(self, service: str) -> Inspected:
        give_up = time.monotonic() + BEGINS_S
        while True:
            seen = self.inspect(service)
            if seen is None:
                raise Failed("engine-failed", f"the container of {service} is gone", why="somebody has removed it")
            if not is_up(seen):
                if seen["State"]["ExitCode"] in (126, 127):
                    self._refuse_unexecuted(service, seen)
                return seen
            if has_begun(int(seen["State"]["Pid"])) or time.monotonic() > give_up:
                return seen
            time.sleep(_LOOK_S)

    def _refuse_unexecuted(self, service: str, seen: Inspected) -> None:
        with spoken(self.path, "read a log") as asked:
            text: Any = asked.logs(seen["Id"], tail=3)
        last = text.decode("utf-8", "replace").strip().rpartition("\n")[2]
        if last.startswith(_FATAL):
            raise _not_started(service, last)

    def remove(self, service: str) -> bool:
        """Remove the service's container, with the nameless volumes of its image. False where it is up."""
        import docker.errors  # noqa: PLC0415  # as above

        there = self.inspect(service)
        if there is None:
            return True
        if is_up(there):
            return False
        with spoken(self.path, f"remove the container of {service}", SLOW_S) as asked:
            try:
                asked.remove_container(there["Id"], v=True)
            except docker.errors.NotFound:
                return True
        return True

    def signal(self, container: str, name: str) -> None:
        """Send a signal; one that has ended meanwhile needs none."""
        import docker.errors  # noqa: PLC0415  # as above

        with spoken(self.path, f"send {name} to a container") as asked:
            try:
                asked.kill(container, signal=name)
            except docker.errors.APIError as error:
                if error.status_code not in (404, 409):
                    raise

    def unpause(self, container: str) -> None:
        with spoken(self.path, "unpause a container") as asked:
            asked.unpause(container)

    def refuse_volumes(self, service: str, config: Mapping[str, Any]) -> None:
        """Raise Failed `unsafe-volume` for a named volume that is a folder of this machine in disguise."""
        import docker.errors  # noqa: PLC0415  # as above

        for mount in config["HostConfig"]["Mounts"]:
            if mount["Type"] != "volume":
                continue
            with spoken(self.path, f"look up the volume {mount['Source']}") as asked:
                try:
                    seen = asked.inspect_volume(mount["Source"])
                except docker.errors.NotFound:
                    continue
            if seen.get("Driver") != "local" or seen.get("Options"):
                raise Failed(
                    "unsafe-volume",
                    f"the volume {mount['Source']} of service {service} is not mounted",
                    why="its driver or its options lead out of the engine's own folder (SEC-D9)",
                    hint=f"docker volume inspect {mount['Source']}; use a plain volume, or a folder",
                )

    def info(self) -> Mapping[str, Any]:
        """What the engine tells of itself."""
        with spoken(self.path, "tell of itself") as asked:
            told: Mapping[str, Any] = asked.info()
        return told


def refuse_engines_own(service: str, config: Mapping[str, Any], info: Mapping[str, Any]) -> None:
    """Raise Failed `unsafe-volume` for a folder that holds what the engine keeps: other containers, and volumes.

    Where that is the engine alone knows: it is often moved to the disk that models are on.
    """
    root = os.path.realpath(info.get("DockerRootDir") or DATA)
    for mount in config["HostConfig"]["Mounts"]:
        if mount["Type"] == "bind" and touch(Path(mount["Source"]), Path(root)):
            raise Failed(
                "unsafe-volume",
                f"the folder {mount['Source']} of service {service} is not mounted",
                why=f"the engine keeps other containers and volumes in {root} (SEC-D9)",
                hint="mount a folder beside it",
            )


def _is_whole(seen: Inspected) -> bool:
    """One that never ran, or that the engine could not end, is made anew."""
    return str(seen["State"]["Status"]) == "exited"


def _not_started(service: str, why: str) -> Failed | MachineLacks:
    low = why.lower()
    if "could not select device driver" in low or "unresolvable cdi" in low or "cdi device injection failed" in low:
        return MachineLacks(
            "no-gpu-runtime",
            f"the container engine cannot give {service} a GPU",
            why=why,
            hint="install NVIDIA's container toolkit, then: nvidia-ctk runtime configure --runtime=docker, restart it",
        )
    if "port is already allocated" in low or "address already in use" in low:
        return Failed(
            "port-taken",
            f"a port of {service} is taken",
            why=why,
            hint=f"see who has it: ss -ltnp; or give the service another one: gpumod service edit {service} --port N",
        )
    if "no such file or directory" in low or "executable file not found" in low:
        return MachineLacks(
            "missing-binary",
            f"the image of service {service} has no such program",
            why=why,
            hint=f"look at its option program or command: gpumod service show {service}",
        )
    if "exec" in low and ("permission denied" in low or "format error" in low):
        return Failed(
            "cannot-execute",
            f"service {service} cannot execute its program",
            why=why,
            hint="it must be executable, and made for this machine's processor",
        )
    return Failed(
        "engine-refused",
        f"the container of {service} was not started",
        why=why,
        hint="its own log tells more: journalctl -u docker",
    )
