"""Some of the machine's tests with the GPUs read through NVML; `nox -s nvml` and `nox -s systemd` run more that way."""

from __future__ import annotations

import pytest

from tests.machine import test_machine_neighbours as neighbours
from tests.machine import test_machine_switches as switches

pytestmark = [pytest.mark.sim, pytest.mark.nvml, pytest.mark.slow]

test_two_cards = switches.test_a_second_card_is_used_where_the_first_is_full_and_a_service_may_span_both
test_strangers = neighbours.test_memory_that_is_taken_between_plan_and_start_is_named
