"""Inputs: the kinds of corpus that can be listed, one module each."""
