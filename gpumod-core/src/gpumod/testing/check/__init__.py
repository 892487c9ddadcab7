"""Checks something that is offered: `python -m gpumod.testing.check`, as `gpumod plugins check` runs it."""
