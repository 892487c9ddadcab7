"""The systemd supervisors: a unit per service, kept by the system's or by the user's manager."""

from gpumod.adapters.systemd.supervisor import SystemdSupervisor

__all__ = ["SystemdSupervisor"]
