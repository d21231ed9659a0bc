"""A run: its configuration, graph, launch, progress and results."""

# Last sentence about a run that broke off.
GO_ON = "Finished work is kept: run the same command again to continue."
