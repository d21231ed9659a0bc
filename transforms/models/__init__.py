"""Models: presets, store, loading, batching, label maps. Knows no Beam."""
