"""How methods and controls are written where a person reads them: as their authors do, or in words."""

import re

_SPELLINGS = {
    "alphaedit": "AlphaEdit",
    "betaedit": "BetaEdit",
    "cpt": "CPT",
    "crispedit": "CrispEdit",
    "drift_kept": "drift kept small",
    "emmet": "EMMET",
    "encore": "ENCORE",
    "fft": "FFT",
    "ft": "FT",
    "ft_l": "FT-L",
    "ft_m": "FT-M",
    "locft": "LocFT",
    "grow_all": "all blocks grown",
    "lora": "LoRA",
    "lti": "LTI",
    "memit": "MEMIT",
    "mend": "MEND",
    "mose": "MOSE",
    "mpes": "MPES",
    "norm_kept": "norm kept",
    "norm_rescaled": "next norm rescaled",
    "p_rome": "p-ROME",
    "pmet": "PMET",
    "prune": "PRUNE",
    "r_rome": "r-ROME",
    "random_direction": "random direction",
    "rect": "RECT",
    "rome": "ROME",
    "simie": "SimIE",
    "stableedit": "StableEdit",
    "ultraedit": "UltraEdit",
    "whitened_direction": "random, rare keys",
}
_NAME = re.compile(r"(?<![\w/\\=.-])\w+(?![\w/\\=-]|\.\w)")
"""A word that is no part of a path, of a setting or of a longer name."""


def spelled(text: str) -> str:
    """The text with every name of a method as its authors write it: `encore · mpes` as `ENCORE · MPES`."""
    return _NAME.sub(lambda name: _SPELLINGS.get(name[0], name[0]), text)
