"""Images: formats, orientation, resize rules. These modules import neither Beam nor TensorFlow."""
