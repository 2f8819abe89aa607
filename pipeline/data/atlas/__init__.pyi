from .facts import AtlasFacts

__all__ = ["AtlasFacts"]
