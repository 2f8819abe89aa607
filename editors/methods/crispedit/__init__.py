"""CrispEdit (arXiv 2602.15823): fine-tuning along directions in which the loss on text hardly bends."""

import lazy_loader

# the public names are listed in __init__.pyi and imported when they are first used
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
