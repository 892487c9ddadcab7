"""gpumod_vllm: see README.md."""
