"""gpumod_sim: see README.md."""
