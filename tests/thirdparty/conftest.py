"""The simulated machine of tests/machine, for third parties' services on it."""

from __future__ import annotations

from tests.machine.conftest import driver, machine, make_machine

__all__ = ["driver", "machine", "make_machine"]
