from .fact_file import FactFile as FactFile
from .lines import FactLines as FactLines
