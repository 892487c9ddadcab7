"""What may stand in `unit_vars` of a container service, or in `container` of another driver's service."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, field_validator, model_validator

from gpumod.api import CONTAINER, Args, Options, Service, parse_fields
from gpumod_docker.environment import Environment
from gpumod_docker.mounts import Volume, read_volume
from gpumod_docker.ports import PublishedPort, read_port
from gpumod_docker.refusals import refuse

DRIVER = "docker"
Image = Annotated[
    str,
    StringConstraints(
        max_length=500,
        pattern=r"^[a-z0-9][a-z0-9._-]*(:[0-9]{1,5})?(/[a-z0-9][a-z0-9._-]*)*"
        r"(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?$",
    ),
]
"""A reference to an image: [REGISTRY[:PORT]/]NAME[:TAG][@sha256:DIGEST]."""


def _text(value: Any) -> Any:
    """A number as YAML and `--set` read it."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


User = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z_0-9][a-z0-9_-]{0,31}(:[a-z_0-9][a-z0-9_-]{0,31})?$"),
    BeforeValidator(_text),
]
Inside = Annotated[str, StringConstraints(pattern=r"^/[^\x00-\x1f\x7f]*$", max_length=1000)]
StatusCode = Annotated[int, Field(ge=100, le=599)]


def _listed(value: Any) -> Any:
    """One text, or a list of them (numbers too, as ports are); a mapping is FROM: TO."""
    if isinstance(value, str | int):
        return re.split(r"[,\s]+", str(value).strip())
    if isinstance(value, Mapping):
        return [f"{key}:{item}" for key, item in value.items()]
    return value


def _ports(value: Any) -> Any:
    listed = _listed(value)
    return tuple(read_port(item) for item in listed) if isinstance(listed, list | tuple) else listed


def _volumes(value: Any) -> Any:
    listed = _listed(value)
    return tuple(read_volume(item) for item in listed) if isinstance(listed, list | tuple) else listed


class ContainerOptions(Options):
    """How a service runs in a container. The README's table explains them; what is not here is not given."""

    image: Image
    ports: Annotated[tuple[PublishedPort, ...], BeforeValidator(_ports)] = ()
    environment: Environment = {}
    volumes: Annotated[tuple[Volume, ...], BeforeValidator(_volumes)] = ()
    program: Inside | None = None
    user: User | None = None
    workdir: Inside | None = None
    shm_size_mb: Annotated[int, Field(ge=1, le=1_048_576)] | None = None
    memory_mb: Annotated[int, Field(ge=6, le=100_000_000)] | None = None
    read_only: bool = False
    lock_memory: bool = False
    pull: Literal["missing", "always", "never"] = "missing"
    gpu_access: Literal["auto", "nvidia", "cdi"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _refused(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            refuse(value)
        return value

    @field_validator("ports")
    @classmethod
    def _ports_once(cls, value: tuple[PublishedPort, ...]) -> tuple[PublishedPort, ...]:
        for name, numbers in (("host", [p.host for p in value]), ("container", [p.container for p in value])):
            if len(set(numbers)) < len(numbers):
                raise ValueError(f"a port of the {name} stands there twice")
        return value

    @field_validator("volumes")
    @classmethod
    def _targets_once(cls, value: tuple[Volume, ...]) -> tuple[Volume, ...]:
        targets = [volume.target for volume in value]
        if len(set(targets)) < len(targets):
            raise ValueError("two volumes have the same target")
        return value


class DockerOptions(ContainerOptions):
    """Options of a service of the driver `docker`: a container, and how its health is asked."""

    command: Args = ()
    entrypoint: Args = ()
    health: Literal["http", "container"] = "http"
    health_status: StatusCode = 200
    stop_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 30.0


def docker_options(service: Service) -> DockerOptions:
    """The options of a service of the driver `docker`. Raises ValueError."""
    return parse_fields(DockerOptions, service, service.unit_vars)


def container_options(service: Service) -> ContainerOptions:
    """How `service`, whatever its driver, runs in a container. Raises ValueError."""
    if service.driver == DRIVER:
        return docker_options(service)
    given = service.unit_vars.get(CONTAINER)
    if given is None:
        raise ValueError(
            f"service {service.id!r}: it is to run in a container, and nothing says of which image:"
            ' --set container=\'{"image": "NAME:TAG"}\''
        )
    if not isinstance(given, Mapping):
        raise ValueError(f"service {service.id!r}: option 'container' must be a mapping")  # noqa: TRY004  # as above
    return parse_fields(ContainerOptions, service, given)
