"""Beam's other engines on this machine, from package registries: Prism, and a Flink cluster."""
