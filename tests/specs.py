"""Specs of models that are not run, for tests and benchmarks."""

from labelbeam.transforms.models.spec import ModelOptions, ModelSpec, decide_spec, read_model


def resolve_spec(options: ModelOptions) -> ModelSpec:
    """Find or fetch a model and resolve it without a probe."""
    return decide_spec(read_model(options))
