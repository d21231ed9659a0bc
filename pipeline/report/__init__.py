"""What a run shows: its progress, its summary and its bottleneck."""
