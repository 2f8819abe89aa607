"""States of Slurm jobs, why those that wait do so, and which of them can never start."""

import logging
import os
import re
import time
from collections import Counter

from submitit.slurm.slurm import SlurmInfoWatcher

log = logging.getLogger(__name__)

POLL = 60
"""Largest time between two queries of Slurm, in seconds; a result in the folder of a job is read at once."""
SETTLED = 20
"""Seconds for which a reason has to last before it is believed: Slurm gives some for a moment."""
PATIENCE = 60
"""Seconds of waiting after which its reasons are reported; later on, whenever they have changed."""
FORGOTTEN = "FORGOTTEN"
"""State of a job that Slurm does not list any more."""
STUCK = "STUCK"
"""State of a job that waits for something that will not come."""
OVER = frozenset(
    "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED TIMEOUT".split()
) | {FORGOTTEN, STUCK}
"""Final states of a job. A job that is preempted and queued again is PENDING."""

_SIZE = "launcher.threads, hydra.launcher.mem_gb, gpus_per_node or partition"
_ACCOUNT = "hydra.launcher.account or hydra.launcher.qos"
NEVER = {
    r"Partition(Config|NodeLimit)": _SIZE,
    r"BadConstraints": f"hydra.launcher.constraint, {_SIZE}",
    r"\w*TimeLimit|\w*MaxWallDurationPerJobLimit": "hydra.launcher.timeout_min",
    r"(Assoc|QOS)(Max|Min)\w+PerJob(Limit)?|QOSMin\w+|MaxMemPerLimit": f"{_SIZE}, {_ACCOUNT}",
    r"Invalid(Account|QOS)|AccountNotAllowed|QOSNotAllowed|AssociationNotFound": _ACCOUNT,
    r"DependencyNeverSatisfied": "hydra.launcher.additional_parameters.dependency",
}
"""Reasons (patterns) for which a job waits for ever, and the settings to change. Priority, Resources, holds,
nodes that are down and limits on all jobs of a user together pass, so they are not among them."""


class Queue(SlurmInfoWatcher):
    """The states of jobs from `squeue`, which lists ended jobs for some minutes.

    `sacct`, which submitit uses, lists nothing on a cluster without accounting: a sweep would wait forever
    for a job that was killed.
    """

    def __init__(self, delay_s: int = POLL) -> None:
        super().__init__(delay_s)
        self._reasons: dict[str, tuple[str, float]] = {}
        """Reason and the time since when Slurm gives it, by job that waits."""
        self._reported = ""
        self._began = time.monotonic()

    def _make_command(self) -> list[str] | None:
        if not self._registered - self._finished:
            return None
        return ["squeue", "-h", "-r", "-t", "all", "-u", str(os.getuid()), "-o", "%i|%T|%r"]

    def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
        """State and reason by job; `FORGOTTEN` for those that Slurm does not list."""
        text = string if isinstance(string, str) else string.decode(errors="replace")
        parts = [line.strip().split("|") for line in text.splitlines()]
        listed = {part[0]: (part[1], part[2]) for part in parts if len(part) == 3}
        jobs = self._registered - self._finished
        rows = {job: listed.get(job, (FORGOTTEN, "")) for job in jobs}
        self._watch({job: reason for job, (state, reason) in rows.items() if state == "PENDING"})
        return {
            job: {"State": STUCK if self._is_stuck(job) else state, "Reason": reason}
            for job, (state, reason) in rows.items()
        }

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        """Whether Slurm will not run the job (any more)."""
        return self.get_state(job_id, mode=mode) in OVER

    def reason(self, job_id: str) -> str:
        """Why the job waits or has failed, in Slurm's word; empty if Slurm gives none."""
        reason = self.get_info(job_id, mode="cache").get("Reason", "")
        return "" if reason == "None" else reason

    def _watch(self, waiting: dict[str, str]) -> None:
        """Note since when each job waits for its reason, and report reasons that last."""
        now = time.monotonic()
        before = self._reasons
        self._reasons = {
            job: before[job] if before.get(job, ("",))[0] == reason else (reason, now)
            for job, reason in waiting.items()
        }
        counts = Counter(reason for reason in waiting.values() if reason != "None").most_common()
        reasons = ", ".join(f"{count} for {reason}" for reason, count in counts)
        if reasons and now - self._began >= PATIENCE and reasons != self._reported:
            log.info("jobs that wait, and what for in Slurm's words: %s", reasons)
            self._reported = reasons

    def _is_stuck(self, job: str) -> bool:
        reason, since = self._reasons.get(job, ("", 0.0))
        return bool(setting_of(reason)) and time.monotonic() - since >= SETTLED


def setting_of(reason: str) -> str:
    """The settings to change for a job that waits for ever for this reason; empty if the reason may pass."""
    return next((setting for pattern, setting in NEVER.items() if re.fullmatch(pattern, reason)), "")
