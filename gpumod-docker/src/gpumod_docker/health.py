"""A container's own HEALTHCHECK, asked of the engine."""

from __future__ import annotations

from gpumod.api import ProbeResult
from gpumod_docker.definition import SERVICE
from gpumod_docker.engine import socket_path, spoken


def own_health(service: str, port: int) -> ProbeResult:
    """What the engine says of the health of the container of `service` that publishes `port`. Blocking."""
    path = socket_path()
    with spoken(path, "tell the health of a container") as asked:
        rows = asked.containers(filters={"label": [f"{SERVICE}={service}"], "publish": [str(port)]})
        if not rows:
            return ProbeResult(state="starting", detail=f"no container of it publishes port {port} yet")
        health = asked.inspect_container(rows[0]["Id"])["State"].get("Health")
    if not health or health.get("Status") == "none":
        return ProbeResult(state="failed", detail="its image has no HEALTHCHECK: set the option health to http")
    said = ((health.get("Log") or [{}])[-1].get("Output") or "").strip()[:200]
    if health["Status"] == "healthy":
        return ProbeResult(state="ready")
    if health["Status"] == "starting":
        return ProbeResult(state="starting", detail=said or "its health check has not passed yet")
    return ProbeResult(state="unhealthy", detail=said or f"{health.get('FailingStreak')} health checks failed")
