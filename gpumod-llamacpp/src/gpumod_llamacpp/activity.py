"""The use of a model, from `/metrics`: of what tells it, that alone neither loads a model nor wakes one."""

from __future__ import annotations

from gpumod.api import Activity, Http, Service, metric_sum

IN_FLIGHT = ("llamacpp:requests_processing", "llamacpp:requests_deferred")
SERVED = ("llamacpp:prompt_tokens_total", "llamacpp:tokens_predicted_total")


def metrics_query(service: Service) -> list[tuple[str, str]]:
    """What `/metrics` must be asked with: a router passes it on to its member, and would load it first."""
    return [("model", service.id), ("autoload", "false")] if service.host is not None else []


async def read_activity(service: Service, port: int, http: Http) -> Activity | None:
    """Requests under way and tokens served; None where it is not loaded or does not tell. Raises HttpFailure."""
    reply = await http.request("GET", port, "/metrics", query=metrics_query(service))
    in_flight = metric_sum(reply.text, *IN_FLIGHT) if reply.ok else None
    if in_flight is None:
        return None
    return Activity(in_flight=max(0, round(in_flight)), served=metric_sum(reply.text, *SERVED))
