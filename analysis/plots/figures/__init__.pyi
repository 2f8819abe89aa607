from .curves import growth_terms as growth_terms
from .metric_figures import key_charts as key_charts, other_keys as other_keys
from .plugin_figures import figures_with as figures_with
from .registry import (
    FigureSpec as FigureSpec,
    charts as charts,
    save_figures as save_figures,
    selected_figures as selected_figures,
)
