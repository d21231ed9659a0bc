"""The steps: how each is done, and nothing of a run."""
