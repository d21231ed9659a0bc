"""labelbeam: labels large image corpora with TensorFlow Hub classifiers, on Apache Beam."""

__version__ = "0.1.0"
