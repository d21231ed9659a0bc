"""Tables: their folder, manifest, rows, and the merge of staged rows into them."""
