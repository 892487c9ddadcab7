"""Whose memory it is where the driver does not tell: what nobody is named for, shared among services. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Claim(NamedTuple):
    """MiB that a service has on one GPU by the device's difference, and what it may have grown to since then."""

    measured_mb: int
    most_mb: int


def share_out(untold_mb: int, claims: Mapping[str, Claim]) -> dict[str, int]:
    """What each service holds of the `untold_mb` MiB in use on a GPU that the driver names no process for.

    First everybody gets what was measured; what is left then is growth, for many services take the rest of their
    memory at their first request, and goes to those that may still grow. The sum is never above `untold_mb`: the rest
    is nobody's.
    """
    left = max(0, untold_mb)
    shares: dict[str, int] = {}
    for service, claim in claims.items():
        shares[service] = min(max(0, claim.measured_mb), left)
        left -= shares[service]
    for service, claim in claims.items():
        grown = min(max(0, claim.most_mb - shares[service]), left)
        shares[service] += grown
        left -= grown
    return shares
