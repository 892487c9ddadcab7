"""Conformance suites: what is promised for each kind of offer, as tests that authors inherit."""
