"""This computer, as `gpumod doctor` looks at it."""

from gpumod.adapters.checkup.computer import ThisComputer

__all__ = ["ThisComputer"]
