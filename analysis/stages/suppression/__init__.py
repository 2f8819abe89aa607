"""What is left of old objects: by block, under attack, with a part of the drift, and under a binary mask."""

import lazy_loader

# the public names are listed in __init__.pyi and imported when they are first used
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
