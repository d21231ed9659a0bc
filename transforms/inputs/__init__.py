"""Inputs: one module for each format of corpus, and the table of formats in `formats`."""
