"""Tables: their folder, manifest and rows, and merging of staged rows."""
