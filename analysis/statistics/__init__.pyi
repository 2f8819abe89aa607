from .change_point import Break as Break
from .growth_laws import fit as fit
from .intervals import over_seeds as over_seeds, wilson as wilson
