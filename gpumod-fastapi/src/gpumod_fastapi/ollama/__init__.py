"""Ollama, installed natively: a host whose members are its models."""
