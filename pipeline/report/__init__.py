"""Reports of a run: its model, progress, summary and bottleneck."""
