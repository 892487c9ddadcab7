"""gpumod_presets: see README.md."""
