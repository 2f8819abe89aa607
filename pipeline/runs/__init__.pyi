from .atomic_files import (
    read_json as read_json,
    sync_file as sync_file,
    sync_folder as sync_folder,
    write as write,
    write_json as write_json,
)
from .checkpoint_store import Saved as Saved, new_checkpoint as new_checkpoint
from .folder import RunBusy as RunBusy, RunDir as RunDir, RunInfo as RunInfo
from .heartbeat import is_elsewhere_computed as is_elsewhere_computed, is_gone as is_gone, read as read
from .input_digests import check_inputs as check_inputs, recorded_inputs as recorded_inputs
from .layout import folder_of as folder_of, is_done as is_done, run_of as run_of
from .machine_errors import as_machine_error as as_machine_error
from .messages import departure as departure, duration as duration, numerical as numerical, reason as reason
from .objectives import (
    EditsBeforeAlarm as EditsBeforeAlarm,
    Score as Score,
    ScoreMinusDownstreamLoss as ScoreMinusDownstreamLoss,
    Value as Value,
    chosen as chosen,
    lacking as lacking,
    objective_of as objective_of,
)
from .provenance import git_state as git_state
from .signals import (
    Interrupted as Interrupted,
    JobFailed as JobFailed,
    JobLeft as JobLeft,
    Requests as Requests,
    received as received,
)
