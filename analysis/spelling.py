"""How methods are written where a person reads them: as their authors do, not as the configuration does."""

import re

_SPELLINGS = {
    "alphaedit": "AlphaEdit",
    "betaedit": "BetaEdit",
    "cpt": "CPT",
    "emmet": "EMMET",
    "encore": "ENCORE",
    "fft": "FFT",
    "ft": "FT",
    "ft_l": "FT-L",
    "ft_m": "FT-M",
    "locft": "LocFT",
    "lora": "LoRA",
    "lti": "LTI",
    "memit": "MEMIT",
    "mend": "MEND",
    "mose": "MOSE",
    "mpes": "MPES",
    "p_rome": "p-ROME",
    "pmet": "PMET",
    "prune": "PRUNE",
    "r_rome": "r-ROME",
    "rect": "RECT",
    "rome": "ROME",
    "simie": "SimIE",
    "stableedit": "StableEdit",
    "ultraedit": "UltraEdit",
}
_NAME = re.compile(r"(?<![\w/\\=.-])\w+(?![\w/\\=-]|\.\w)")
"""A word that is no part of a path, of a setting or of a longer name."""


def spelled(text: str) -> str:
    """The text with every name of a method as its authors write it: `encore · mpes` as `ENCORE · MPES`."""
    return _NAME.sub(lambda name: _SPELLINGS.get(name[0], name[0]), text)
