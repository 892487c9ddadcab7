"""The command line: parses, calls one operation, renders its result. It holds no logic of its own."""
