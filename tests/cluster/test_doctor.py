"""``symcere doctor``: each failing condition is found, named with what to do, and alone decides the exit code."""

import collections
import json
import shutil
import sys

import pytest

from symcere.cli import main
from symcere.config import Experiment
from symcere.distributed import nodes
from symcere.distributed.nodes import Node
from symcere.steps.doctor import Check, Report, doctor

STEP = sys.modules[doctor.__module__]  # `symcere.steps.doctor` is the function
LSA = Experiment().replace({"text.encoders": "lsa"})
GB = 1_000_000_000


@pytest.fixture(autouse=True)
def outside(monkeypatch, home):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def found(report: Report) -> dict[str, Check]:
    return {check.check: check for check in report.checks}


def test_a_sound_machine(tmp_path, home):
    checks = found(doctor(["synthetic"], storage=str(tmp_path / "kept"), experiment=LSA))
    assert {checks[name].result for name in ("packages", "disk", "memory", "MLflow", "storage")} <= {"ok", "warn"}
    assert checks["data set synthetic"].result == "ok"
    assert checks["encoder lsa"].result == "ok"
    assert checks["Ray"].result == "skip"
    assert list((tmp_path / "kept").iterdir()) == []  # what it wrote is gone
    from symcere import tracking

    assert tracking.list_runs() == []


def test_every_failure_says_what_to_do(tmp_path, home, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10 * GB, 9 * GB, 1 * GB))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:hunter2@127.0.0.1:1")
    (tmp_path / "file").touch()
    strange = Experiment().replace({"text.encoders": str(tmp_path / "no-such-model")})
    report = doctor(["nowhere", "hotelrec"], storage=str(tmp_path / "file" / "x"), experiment=strange)
    checks = found(report)
    failed = {name for name, check in checks.items() if check.result == "fail"}
    assert failed == {
        "disk",
        "MLflow",
        "storage",
        "data set nowhere",
        "data set hotelrec",
        f"encoder {tmp_path / 'no-such-model'}",
    }
    assert all(checks[name].advice for name in failed)
    assert "SYMCERE_HOME" in checks["disk"].advice
    assert "MLFLOW_TRACKING_URI" in checks["MLflow"].advice
    assert "credentials" in checks["storage"].advice
    assert "symcere datasets" in checks["data set nowhere"].advice
    assert "hunter2" not in json.dumps(report.summary())
    assert report.exit_code == 1


def test_a_missing_package_is_named(monkeypatch):
    from importlib import metadata

    monkeypatch.setattr(metadata, "requires", lambda _: ["no-such-package>=1", "numpy>=99", "torch>=2; extra == 'x'"])
    check = STEP._packages()
    assert check.result == "fail"
    assert "no-such-package is missing" in check.found
    assert "numpy is" in check.found
    assert "torch" not in check.found
    assert "requirements.lock" in check.advice


def test_a_driver_without_a_fitting_torch(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    check = STEP._gpus()
    assert check.result == "fail"
    assert "torch" in check.advice


def test_small_shared_memory_in_a_container(monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(64_000_000, 0, 64_000_000))  # Docker's default
    check = STEP._shared_memory()
    assert check.result == "warn"
    assert "--shm-size" in check.advice


def test_a_check_that_breaks_is_a_check_that_failed(monkeypatch):
    def broken():
        raise ZeroDivisionError("s3://key:hunter2@bucket")

    monkeypatch.setattr(STEP, "_memory", broken)
    checks = found(doctor(experiment=LSA))
    assert (checks["memory"].result, checks["memory"].found) == ("fail", "ZeroDivisionError: s3://***@bucket")
    assert checks["MLflow"].result == "ok"  # the others were made all the same


def node(number: int, **odd) -> Node:
    here = nodes.facts()
    sound = {"versions": here["versions"], "gpus": 1, "free": 100 * GB, "memory": 16 * GB}
    return Node(name=f"n{number}", address=f"10.0.0.{number}", **(sound | odd))


def test_nodes_that_differ_are_named(monkeypatch):
    asked = []

    def survey(address, storage, mlflow):
        asked.append((address, storage, mlflow))
        return [
            node(1),
            node(2, skew=-7.5, uncertain=0.1, free=GB),
            node(3, versions={**nodes.facts()["versions"], "torch": "1.0", "mlflow": ""}),
            node(4, troubles={"storage": "permission denied", "mlflow": "nobody answers"}),
            node(5, skew=3.0, uncertain=5.0),  # a slow answer is no wrong clock
        ]

    monkeypatch.setattr(nodes, "survey", survey)
    checks = {check.check: check for check in STEP._cluster("auto", "s3://bucket", "http://mlflow:5000")}
    assert asked == [("auto", "s3://bucket", "http://mlflow:5000")]
    assert checks["Ray"].found == "5 nodes, 5 GPUs at auto"
    assert checks["clocks"].found == "10.0.0.2: -7.5 s"
    assert checks["disk on nodes"].found == "10.0.0.2: 1.0 GB free"
    assert checks["versions on nodes"].found.startswith("10.0.0.3: torch 1.0 instead of ")
    assert "mlflow missing instead of" in checks["versions on nodes"].found
    assert checks["storage from nodes"].found == "10.0.0.4: permission denied"
    assert checks["MLflow from nodes"].found == "10.0.0.4: nobody answers"
    assert all(check.advice for check in checks.values() if check.result == "fail")


def test_a_store_that_is_a_file_cannot_be_shared(monkeypatch):
    monkeypatch.setattr(nodes, "survey", lambda *_: [node(1), node(2)])
    checks = {check.check: check for check in STEP._cluster("auto", "", "sqlite:////h/mlflow.db")}
    assert checks["MLflow from nodes"].result == "warn"
    monkeypatch.setattr(nodes, "survey", lambda *_: [node(1)])
    checks = {check.check: check for check in STEP._cluster("auto", "", "sqlite:////h/mlflow.db")}
    assert (checks["MLflow from nodes"].result, checks["MLflow from nodes"].advice) == ("ok", "")


def test_storage_that_is_not_shared_is_found(tmp_path):
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    assert nodes.write_to(one, "node-0") == ""
    assert nodes.write_to(one, "node-1", ["node-0"]) == ""
    assert "the storage is not shared" in nodes.write_to(two, "node-1", ["node-0"])
    nodes.remove(one)
    assert not (tmp_path / "one").exists()


def test_the_fastest_answer_tells_the_clock(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(nodes.time, "time", lambda: clock[0])
    delays = iter([4.0, 0.2, 1.0])

    def ask() -> float:
        delay = next(delays)
        clock[0] += 0.9 * delay  # the way there is the longer one
        there = clock[0] + 5
        clock[0] += 0.1 * delay
        return there

    skew, uncertain = nodes._skew(ask, times=3)
    assert uncertain == pytest.approx(0.1)
    assert skew == pytest.approx(5, abs=0.1)


def test_what_a_person_and_a_program_see(monkeypatch, capsys):
    from symcere import steps

    report = Report([Check("disk", "ok", "90 GB"), Check("Ray", "fail", "gone", "`ray up`")])
    monkeypatch.setattr(steps, "doctor", lambda *_, **__: report)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[:3] == ["ok    disk: 90 GB", "FAIL  Ray: gone", "      → `ray up`"]
    assert "1 failed." in out
    assert main(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["failed"] == ["Ray"]
    assert told["checks"][0] == {"check": "disk", "result": "ok", "found": "90 GB", "advice": ""}
