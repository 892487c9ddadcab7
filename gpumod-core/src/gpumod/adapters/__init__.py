"""Adapters: what speaks to the machine. Named by `bootstrap.py` and by the core's own plugin module alone."""
