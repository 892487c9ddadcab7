"""A simulated GPU machine for gpumod. See README.md.

The stand-ins start in tens of milliseconds, so this module imports nothing.
"""
