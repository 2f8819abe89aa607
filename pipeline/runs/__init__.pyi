from .atomic_files import (
    write as write,
    write_json as write_json,
)
from .checkpoint_store import Saved as Saved, new_checkpoint as new_checkpoint
from .folder import RunBusy as RunBusy, RunDir as RunDir, RunInfo as RunInfo
from .heartbeat import (
    is_elsewhere_computed as is_elsewhere_computed,
    is_gone as is_gone,
    read_progress as read_progress,
)
from .input_digests import check_inputs as check_inputs, recorded_inputs as recorded_inputs
from .layout import folder_of as folder_of, run_of as run_of
from .machine_errors import as_machine_error as as_machine_error
from .messages import (
    duration as duration,
    error_line as error_line,
    error_report as error_report,
    exit_message as exit_message,
    numerical as numerical,
)
from .objectives import (
    EditsBeforeAlarm as EditsBeforeAlarm,
    Score as Score,
    ScoreMinusDownstreamLoss as ScoreMinusDownstreamLoss,
    Value as Value,
    objective_of as objective_of,
    objective_problems as objective_problems,
    objectives_of as objectives_of,
)
from .provenance import git_state as git_state
from .signals import (
    Interrupted as Interrupted,
    JobFailed as JobFailed,
    JobLeft as JobLeft,
    Requests as Requests,
    received as received,
)
