"""gpumod_fastapi: see README.md."""
