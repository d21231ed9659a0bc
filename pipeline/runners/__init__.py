"""Runners: their options and rules, local workers, jobs elsewhere, and the causes of their failures."""
