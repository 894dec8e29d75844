"""One process at a time."""

import json
import os
import time

import pytest

from symcere.errors import UserError


def test_one_process_at_a_time_runs_a_sweep(tmp_path):
    from symcere.steps.sweeps.lock import Lock
    from symcere.tracking import process

    path = tmp_path / "mine" / "running.json"
    with Lock(path.parent):
        with pytest.raises(UserError, match=f"'mine' is running, in process {os.getpid()}"), Lock(path.parent):
            pass
        assert path.exists()
    assert not path.parent.exists()  # nothing had begun in it
    for held, age, runs in (
        ({"host": "other/1", "process": "7@8"}, 1, "in process 7 of other"),  # lives: it touched its lock just now
        ({"host": "other/1", "process": "7@8"}, 1000, ""),
        ({"host": process.host(), "process": "7@long ago"}, 1, ""),
        ("{", 1, "is running"),  # perhaps being written
        ("{", 1000, ""),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(held if isinstance(held, str) else json.dumps(held))
        os.utime(path, (time.time() - age,) * 2)
        if runs:
            with pytest.raises(UserError, match=runs), Lock(path.parent):
                pass
            path.unlink()
        else:
            with Lock(path.parent):
                assert json.loads(path.read_text())["process"] == process.identity()
