"""Sweeps over several workers, GPUs and nodes."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import a_cluster
from sweeping import CHOICES, driver, ended, optuna_studies, outcomes, runs_of, wait_for, write_sweep

from symcere.data.corpus import Corpus
from symcere.distributed import trial as trials
from symcere.errors import UserError


@pytest.mark.slow
def test_trials_of_several_workers_never_wait_for_each_other(corpora):
    """Four trials of two workers each on three cores, two of them started at once: one has to go first."""
    file = corpora / "tiny.yaml"
    file.write_text(
        CHOICES.replace("[one]", "[one, two]").replace("24", "4").replace(", 1.0e-8, 2.0e-8]", "]")
        + "stopping: {kind: none}\nresources: {workers: 2}\n"
    )
    script = """
        import sys
        from symcere.distributed.pool import pool
        from symcere.steps import sweep as command
        from symcere.config.sweep import load
        from symcere.steps.sweeps import command as module, finals
        with pool(cpus=3):
            assert module.together(load(FILE), {"CPU": 3.0}) == 1
            module.together = finals.together = lambda *_: 2
            print(command(FILE, trials=2)["trials"])
    """
    script = "\n".join(line[8:] for line in script.splitlines()).replace("FILE", repr(str(file)))
    with driver(corpora, script) as process:
        printed, _ = process.communicate(timeout=500)
        assert process.returncode == 0, printed
        assert printed.splitlines()[-1] == "4"
    found = outcomes(corpora)
    assert [outcome["status"] for outcome in found.values()] == ["finished"] * 4
    assert all([e["epoch"] for e in outcome["history"]] == [1, 2, 3, 4] for outcome in found.values())
    assert sorted(run.status for run in runs_of("final")) == ["FINISHED"] * 2
    corpus = Corpus.open(corpora / "corpora" / "one")
    for name, outcome in found.items():  # and they found what one process finds
        spec = trials.read_spec(Path(name))
        if spec.dataset == "one":
            alone = trials.run(dataclasses.replace(spec, workers=1), corpora / "alone", lambda epoch, value: None)
            assert outcome["value"] == pytest.approx(alone.value, abs=0.05)
    assert corpus.name == "one"


@pytest.mark.slow
def test_a_trial_asks_for_its_share_of_a_gpu(corpora):
    """Of a GPU that Ray was told of; closed forms need none, so that this runs where there is none."""
    file = corpora / "tiny.yaml"
    text = (
        "datasets: [one]\nmethods: {ease: {space: {closed_form.reg: [10, 100]}}}\nseeds: 1\nresources: {gpu: SHARE}\n"
    )
    script = """
        import json, ray
        from symcere.steps import sweep
        ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
        before = set()
        for share in ("0.1", "auto"):
            path = FILE.replace("tiny", share.replace(".", ""))
            open(path, "w").write(open(FILE).read().replace("SHARE", share))
            sweep(path)
            groups = ray.util.placement_group_table()
            print(json.dumps([g["bundles"] for n, g in groups.items() if n not in before]))
            before = set(groups)
    """
    file.write_text(text)
    script = "\n".join(line[8:] for line in script.splitlines()).replace("FILE", repr(str(file)))
    with driver(corpora, script) as process:
        printed, _ = process.communicate(timeout=500)
        assert process.returncode == 0, printed
    given, estimated = (json.loads(line) for line in printed.splitlines() if line.startswith("["))
    for groups, share in ((given, 0.1), (estimated, 0.05)):  # auto: a twentieth holds so small a data set
        assert groups
        for bundles in groups:
            assert len(bundles) == 1
            (bundle,) = bundles.values()
            assert (bundle["CPU"], bundle["GPU"]) == (1, pytest.approx(share))
            assert bundle["memory"] > 5e8


@pytest.mark.slow
def test_a_lost_node_costs_no_finished_trial(corpora):
    from concurrent.futures import ThreadPoolExecutor

    from symcere import tracking
    from symcere.steps import sweep

    file = write_sweep(corpora, epochs=2000, trials=3)
    file.write_text(file.read_text().replace("stopping: {grace: 3, reduction: 2}", "stopping: {kind: none}"))
    with a_cluster() as cluster:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        cluster.wait_for_nodes()

        def lose_one() -> tuple[dict, dict]:
            """A node, while it is busy; what had ended and what was under way then."""
            under_way: dict[str, dict] = {}

            def busy() -> bool:
                """Two have ended, and two are under way, which have told of themselves and are not about to end."""
                under_way.clear()
                for name, found in outcomes(corpora).items():
                    if found["status"] == "running" and len(found["history"]) < 0.7 * 2000:
                        under_way[name] = found
                return len(under_way) == 2 and len(ended(corpora)) >= 2

            wait_for(busy, seconds=400, pause=0.01)
            kept = ended(corpora)
            cluster.remove_node(nodes[0], allow_graceful=False)
            return kept, under_way

        with ThreadPoolExecutor() as beside:  # the sweep's own news come too seldom
            losing = beside.submit(lose_one)
            result = sweep(file, methods=["lightgcn"], seeds=0, address=cluster.address)
        kept, under_way = losing.result()
    assert len(kept) == 2
    assert result["trials"] == 6
    assert result["notes"] == []
    after = ended(corpora)
    assert all(after[name] == outcome for name, outcome in kept.items())  # not run again
    assert sum(after[name]["started"] != outcome["started"] for name, outcome in under_way.items()) == 1
    assert [outcome["status"] for outcome in after.values()] == ["finished"] * 6
    for outcome in after.values():
        assert [e["epoch"] for e in outcome["history"]] == list(range(1, 2001))
    runs = tracking.list_runs("tiny")
    assert {run.status for run in runs} == {"FINISHED"}
    assert len(runs) == 2 + 6
    states = [trial.state.name for found in optuna_studies(corpora) for trial in found.trials]
    assert states == ["COMPLETE"] * 6


@contextlib.contextmanager
def a_blind_node(address: str, home: Path) -> Iterator[None]:
    """A node of the cluster for which the home is an empty folder."""
    own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]
    ray = f"{sys.executable} -m ray.scripts.scripts start --block --num-cpus=1 --address={address}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "start_new_session": True}
    node = subprocess.Popen([*own, f"mount -t tmpfs none {home} && exec {ray}"], **quiet)
    try:
        yield
    finally:
        node.kill()
        node.wait()


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="another view of the disk needs root")
def test_a_node_that_does_not_share_the_home_is_named(corpora):
    import ray

    from symcere.steps import plan, sweep

    file = write_sweep(corpora, epochs=2000, trials=3)
    file.write_text(file.read_text().replace("stopping: {grace: 3, reduction: 2}", "stopping: {kind: none}"))
    with a_cluster() as cluster, contextlib.ExitStack() as nodes:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        joined = []

        def join(records) -> None:
            if ended(corpora) and not joined:
                joined.append(nodes.enter_context(a_blind_node(cluster.address, corpora)))
                wait_for(lambda: sum(node["Alive"] for node in ray.nodes()) == 3)

        words = {"methods": ["lightgcn"], "seeds": 0, "address": cluster.address}
        with pytest.raises(UserError, match=r"does not see .*/sweeps/tiny/trials.*--resume"):
            sweep(file, **words, on_standing=join)
        kept = ended(corpora)
        assert kept
        with pytest.raises(UserError, match=r"has to be on a disk that all nodes share.*does not see it.*SYMCERE_HOME"):
            sweep(resume="tiny", address=cluster.address)
        assert any("all nodes share" in missing for missing in plan(file, **words)["missing"])
        nodes.close()
        with ray_client(cluster.address):
            wait_for(lambda: sum(node["Alive"] for node in ray.nodes()) == 2)
        assert sweep(resume="tiny", address=cluster.address)["trials"] == 6
    assert all(ended(corpora)[name] == outcome for name, outcome in kept.items())


@contextlib.contextmanager
def ray_client(address: str) -> Iterator[None]:
    from symcere.distributed.pool import pool

    with pool(address):
        yield
