"""Pure domain: frozen values, the state table, errors. No I/O, no clock."""
