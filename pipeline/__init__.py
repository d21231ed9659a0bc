"""A run: its configuration, graph, launch, progress and results."""

# Last sentence about a run that broke off.
GO_ON = "Finished work is kept: run the same command again to continue."
# The same after a message of our own, which has the remedy, because a repetition alone may not help.
KEPT = "Finished work is kept."
