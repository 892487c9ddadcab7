"""gpumod_llamacpp: see README.md."""
