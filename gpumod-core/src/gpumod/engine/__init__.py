"""Observe, apply, verify, recover: asyncio over ports; it knows no adapter."""
