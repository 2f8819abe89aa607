"""Changes weights: models with named matrices, facts, editors and regularizers.

Needs no Hydra, no W&B and no run folder; everything here works from a notebook.
"""

import lazy_loader

# the public names are listed in __init__.pyi and imported when they are first used
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
