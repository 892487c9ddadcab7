"""The suites as pytest collects them; each gets its case from :class:`gpumod.testing.check.__main__.Verdict`."""

from gpumod.testing import DriverSuite, EstimatorSuite, ModelInfoSourceSuite, SleepStrategySuite, SupervisorSuite


class TestDriver(DriverSuite): ...


class TestSleepStrategy(SleepStrategySuite): ...


class TestEstimator(EstimatorSuite): ...


class TestModelInfoSource(ModelInfoSourceSuite): ...


class TestSupervisor(SupervisorSuite): ...
