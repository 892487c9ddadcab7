"""gpumod_docker: see README.md."""
