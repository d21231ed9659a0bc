"""Other tools that label images, each in its best setting and with the same model."""
