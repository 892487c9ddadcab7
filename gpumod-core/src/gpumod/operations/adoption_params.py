"""What goes into the operations on what somebody else set up."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gpumod.domain.adopted import Manager
from gpumod.domain.base import Frozen, Id, Text
from gpumod.domain.service import Mb, Port


class AdoptParams(Frozen):
    """`what` is a unit (`.service` may be left out), a container by its name or id, or a pid. What is given decides
    over what is found; `manager` tells apart units of the same name, `container` says that it is one."""

    what: Text
    id: Id | None = None
    manager: Manager | None = None
    container: bool = False
    driver: Id | None = None
    port: Port | None = None
    vram_mb: Mb | None = None


class ReleaseParams(Frozen):
    """`cascade` takes the service out of the modes that name it."""

    service: Id
    cascade: bool = False


class ImportFile(Frozen):
    """`update` replaces services that are there already, `dry_run` only tells what would be done."""

    file: str
    update: bool = False
    dry_run: bool = False


class ImportOllama(Frozen):
    """`port` is where it answers on this machine. The others as for a file."""

    port: Annotated[int, Field(ge=1, le=65535)] = 11434
    id: Id = "ollama"
    update: bool = False
    dry_run: bool = False
