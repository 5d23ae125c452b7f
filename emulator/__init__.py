"""Public names, imported when first used so that importing the package does no work."""

from typing import Any

_PUBLIC = ("EmulatorError", "Finding", "Memory", "Module", "Report", "TensorMap", "configure", "load")


def __getattr__(name: str) -> Any:  # PEP 562; any type: the names are classes and functions
    if name in _PUBLIC:
        from . import launch

        return getattr(launch, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
