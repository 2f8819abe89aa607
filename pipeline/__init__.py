"""Runs experiments: Hydra configuration, run folders, tracking, sweeps and launchers.

`command_line.py` → `launch.py` → `experiment.py` is one run; the folders hold what these use.
"""

import lazy_loader

# the public names are listed in __init__.pyi and imported when they are first used
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
