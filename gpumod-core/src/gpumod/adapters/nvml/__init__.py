"""GPUs of NVIDIA as their driver tells them (NVML): what is there, what is free, and who holds it."""
