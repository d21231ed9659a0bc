"""labelbeam: labels large image corpora with TensorFlow Hub classifiers, on Apache Beam.

`label` labels a small corpus in memory. The steps are PTransforms for your own pipeline (docs/library.md).
"""

# No import of Python's own either, because the command handles signals first (`labelbeam.__main__`).
TYPE_CHECKING = False

__version__ = "0.1.0"

if TYPE_CHECKING:
    from labelbeam.api import *  # noqa: F403


# Public names are imported when one is first used, because Beam takes seconds, and because processes that
# only decode need none of them.
def __getattr__(name: str) -> object:
    # Refused, because Python itself looks for names such as `__wrapped__` in any module.
    if name.startswith("_"):
        raise AttributeError(f"module 'labelbeam' has no attribute {name!r}")
    import labelbeam.api as api

    return getattr(api, name)


def __dir__() -> list[str]:
    import labelbeam.api as api

    return [name for name in vars(api) if not name.startswith("_")]
