"""Everything that only a GPU can show, from one command of at most nine minutes: `make gpu`.

    python -m tests.gpu                       into outputs/gpu
    python -m tests.gpu out=FOLDER only=parity,kernels total=300

README.md beside this file says what a bare machine needs. A part is a generator of rows with a budget of
seconds; a line of `PARTS` in `__main__.py` makes it run.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models are made here, of random weights
os.environ.setdefault("TQDM_DISABLE", "1")
