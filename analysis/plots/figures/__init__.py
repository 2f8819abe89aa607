"""The figures of the papers: from the tidy table of runs to charts, and the registry of all figures."""

import lazy_loader

# the public names are listed in __init__.pyi and imported when they are first used
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
