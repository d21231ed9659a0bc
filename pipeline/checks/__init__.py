"""Checks of the doctor."""
