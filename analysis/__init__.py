"""Only reads: measures models, and turns finished runs into tables, figures, claims and reports.

Measuring (`stages`) and reading of runs (`results` and above) do not know each other.
"""

import lazy_loader

# the public names are listed in __init__.pyi and imported when they are first used
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
