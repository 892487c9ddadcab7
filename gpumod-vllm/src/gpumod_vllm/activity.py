"""The use of a vLLM, by its metrics."""

from __future__ import annotations

from gpumod.api import Activity, metric_sum

IN_FLIGHT = ("vllm:num_requests_running", "vllm:num_requests_waiting")
SERVED = ("vllm:request_success_total", "vllm:generation_tokens_total", "vllm:prompt_tokens_total")
"""They grow with a request's prompt, with each token and with its end: one that is aborted counts too."""


def activity_in(metrics: str) -> Activity | None:
    """What `/metrics` tells; None where it counts no requests (`--disable-log-stats`).

    Requests that wait while the engine sleeps are in flight: somebody waits for them.
    """
    in_flight = metric_sum(metrics, *IN_FLIGHT)
    if in_flight is None:
        return None
    return Activity(in_flight=max(0, round(in_flight)), served=metric_sum(metrics, *SERVED))
