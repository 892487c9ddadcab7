"""GPUs of NVIDIA as their driver tells them (NVML): what is there, what is free, and who holds it."""

from gpumod.adapters.nvml.probe import NvmlProbe

__all__ = ["NvmlProbe"]
