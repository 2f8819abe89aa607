from .collection import Collection as Collection, collect as collect, collect_run as collect_run
from .comparison import read_one as read_one, render_comparison as render_comparison
from .former_targets import with_current_targets as with_current_targets
from .markdown import cell as cell, lines as lines, linked as linked, written as written
from .run_folder import RunFolder as RunFolder, run_folders as run_folders, runs_in as runs_in
from .study_file import open_storage as open_storage
from .tables import (
    alarm_list as alarm_list,
    alarm_order_text as alarm_order_text,
    alarms_of as alarms_of,
    as_text as as_text,
    differing_settings as differing_settings,
    kind as kind,
    per_series as per_series,
    rows_matching as rows_matching,
    summary as summary,
    values_by_key as values_by_key,
)
