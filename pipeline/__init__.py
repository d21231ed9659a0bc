"""What a run is: its configuration, graph, launch, progress and results."""

__version__ = "0.1.0"

# What a run that broke off says last.
GO_ON = "What is done is kept: run the same command again, and it goes on from there."
