"""A pool of processes: outcomes, what jobs tell, failures and deaths, and how it stops."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch

from fewstep.base.errors import FewstepError, Stopped, StorageError, UserError
from fewstep.base.pool import Pool
from fewstep.base.signals import stop_requests


def work(job, tell):
    """What the job says, in whatever process this is."""
    if job == "save":
        with stop_requests() as stops:
            tell("ready")
            while not stops:
                time.sleep(0.01)
        raise Stopped("saved")
    tell(("heard", job))
    if job == "fail":
        raise UserError("job = 'fail': expected another")
    if job == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return job, torch.get_num_threads(), os.getpid()


def test_jobs_of_two_processes_fail_and_die_alone():
    """Then whoever asks the parent to stop has the others stop as well."""
    told = []
    with Pool(work, 2) as pool:
        outcomes = dict(pool.outcomes(["a", "fail", "die", "b"], lambda *news: told.append(news)))
        assert isinstance(outcomes["fail"], UserError)
        assert str(outcomes["fail"]) == "job = 'fail': expected another"
        assert "exit code -9" in str(outcomes["die"])
        for job in ("a", "b"):
            name, threads, process = outcomes[job]
            assert (name, threads) == (job, 1)
            assert process != os.getpid()
        assert sorted(told) == [(job, ("heard", job)) for job in ("a", "b", "die", "fail")]

        def stop(job, news):
            os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(Stopped):
            list(pool.outcomes(["save"], stop))
        processes = [worker.process for worker in pool.workers]
    # The one that worked was asked, and ended by itself; an idle one may be there or not.
    codes = [process.exitcode for process in processes]
    assert codes.count(0) == 1
    assert set(codes) <= {0, -signal.SIGTERM}


def boom(job, tell):
    raise {"bug": ZeroDivisionError, "disk": StorageError, "stop": Stopped}[job]("why")


def test_one_job_at_a_time_is_this_process(capfd):
    with Pool(work, 1) as pool:
        assert [o[2] for _, o in pool.outcomes(["a", "b"])] == [os.getpid()] * 2
    with Pool(boom, 1) as pool:
        (_, bug), (_, disk) = pool.outcomes(["bug", "disk"])
        assert (type(bug), str(bug)) == (FewstepError, "ZeroDivisionError: why")
        assert (type(disk), str(disk)) == (StorageError, "why")
        with pytest.raises(Stopped):
            list(pool.outcomes(["stop", "bug"]))
    assert capfd.readouterr().err.count("Traceback") == 1  # of the bug alone
