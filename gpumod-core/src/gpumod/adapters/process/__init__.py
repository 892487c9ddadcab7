"""The process supervisor: plain detached processes, one shim per service."""

from gpumod.adapters.process.supervisor import ProcessSupervisor

__all__ = ["ProcessSupervisor"]
