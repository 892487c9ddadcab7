"""What somebody else set up on this machine: found, watched, started and stopped, and otherwise left as it is."""
