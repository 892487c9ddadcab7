"""The process supervisor: plain detached processes, one shim per service."""
