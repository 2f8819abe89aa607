from .curves import growth_terms as growth_terms
from .registry import (
    FigureSpec as FigureSpec,
    charts as charts,
    chosen_figures as chosen_figures,
    save_figures as save_figures,
)
