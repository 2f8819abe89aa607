from .charts.save import save as save
from .figures.registry import FIGURES as FIGURES
