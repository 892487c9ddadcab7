"""What plugin authors import in their tests: a suite for each kind of offer, which tells whether it keeps its promises.

::

    from gpumod.api import Service
    from gpumod.testing import DriverCase, DriverSuite

    class TestAcme(DriverSuite):
        @pytest.fixture
        def case(self):
            return DriverCase(AcmeDriver(), [Service(id="chat", driver="acme", port=8000, model_path="/m")])
"""

try:
    import hypothesis as _hypothesis
    import pytest
    import pytest_asyncio as _pytest_asyncio
except ModuleNotFoundError as lacking:
    raise ModuleNotFoundError(
        f'gpumod\'s suites need {lacking.name}: pip install "gpumod-core[testing]"', name=lacking.name
    ) from None

del _hypothesis, _pytest_asyncio

# Before they are imported: what a failed assert of theirs compared is shown then, as in a test of one's own.
pytest.register_assert_rewrite("gpumod.testing.suites", "gpumod.testing.supervisor_suite")

from gpumod.testing.suites.cases import DriverCase, EstimatorCase, ModelInfoCase, SleepCase
from gpumod.testing.suites.driver import DriverSuite
from gpumod.testing.suites.estimator import EstimatorSuite
from gpumod.testing.suites.model_info import ModelInfoSourceSuite
from gpumod.testing.suites.sleep import SleepStrategySuite
from gpumod.testing.supervisor_bench import Bench
from gpumod.testing.supervisor_suite import SupervisorSuite

__all__ = [
    "Bench", "DriverCase", "DriverSuite", "EstimatorCase", "EstimatorSuite", "ModelInfoCase", "ModelInfoSourceSuite",
    "SleepCase", "SleepStrategySuite", "SupervisorSuite",
]  # fmt: skip
