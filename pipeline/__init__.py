"""What a run is: its configuration, graph, launch, progress and results."""

__version__ = "0.1.0"
