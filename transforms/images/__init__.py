"""Images: formats, orientation, resize rules. Knows neither Beam nor TensorFlow."""
