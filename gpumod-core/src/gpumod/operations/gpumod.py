"""Gpumod: every verb that a user can say. The CLI, the MCP server and the TUI each call exactly one operation."""

from __future__ import annotations

from gpumod.operations.boxes import Boxes
from gpumod.operations.configuring import Configuring
from gpumod.operations.diagnosing import Diagnosing
from gpumod.operations.freeing import Freeing
from gpumod.operations.looking import Looking
from gpumod.operations.plugging import Plugging
from gpumod.operations.secrets import ServiceSecrets
from gpumod.operations.setup import Setup
from gpumod.operations.turns import Turns
from gpumod.operations.watching import Watching


class Gpumod(Looking, Watching, Freeing, Boxes, Turns, Setup, Diagnosing, Configuring, Plugging, ServiceSecrets):
    """One home on one machine. Made by :func:`gpumod.bootstrap.open_gpumod`; each method is an operation of
    :data:`gpumod.operations.catalogue.OPERATIONS` and takes its parameters as one value."""
