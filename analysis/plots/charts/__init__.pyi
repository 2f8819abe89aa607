from .bars import BarChart as BarChart, BarPanel as BarPanel, Bars as Bars
from .events import Event as Event, EventChart as EventChart, placed as placed
from .heatmap import Grid as Grid, HeatMap as HeatMap
from .lines import (
    Line as Line,
    LineChart as LineChart,
    Panel as Panel,
    Style as Style,
    values_of as values_of,
)
from .points import Spread as Spread, Track as Track, TrackChart as TrackChart
from .save import Chart as Chart, Format as Format
from .scales import (
    Scale as Scale,
    forward as forward,
    log_ticks as log_ticks,
    scale_for as scale_for,
    symlog_ticks as symlog_ticks,
)
