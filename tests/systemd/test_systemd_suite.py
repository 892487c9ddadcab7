"""The systemd supervisors keep what every supervisor promises, on a real systemd, under both managers."""

from __future__ import annotations

import pytest

from gpumod.testing.supervisor_suite import SupervisorSuite

pytestmark = pytest.mark.systemd


class TestSystemdSupervisor(SupervisorSuite):
    """`bench` is under the system manager, then under the user's."""
