"""Second moments E[k kᵀ] of the keys of a layer: collected in one pass, cached, or read from files."""

import lazy_loader

# the public names are listed in __init__.pyi and imported when they are first used
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
