from .html_report import write_report as write_report
from .metrics_page import render_metrics as render_metrics
from .optuna_study import searches as searches
from .results_page import write_results as write_results
