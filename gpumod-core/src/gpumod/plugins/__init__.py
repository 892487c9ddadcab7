"""Offering things to the core: hookspecs, the loader that isolates a broken plugin, registries."""
