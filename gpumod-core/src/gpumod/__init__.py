"""gpumod keeps the AI services of a GPU machine inside the memory that its GPUs have.

Plugin authors import from :mod:`gpumod.api`; everything else is internal.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
