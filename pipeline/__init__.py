"""A run: its configuration, graph, launch, progress and results."""

# Last sentence about a run that broke off.
GO_ON = "What is done is kept: run the same command again, and it goes on from there."
