from .change_point import ChangePoint as ChangePoint
from .growth_laws import fit_growth_laws as fit_growth_laws
from .intervals import cluster_bootstrap as cluster_bootstrap, over_seeds as over_seeds
