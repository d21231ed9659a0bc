"""What else one would label images with, each at its best and with the same model."""
