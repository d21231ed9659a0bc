"""Commands over results and models, one file a command."""
