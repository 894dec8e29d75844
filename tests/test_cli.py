"""The command: every line becomes one call of a step; every error a paragraph and an exit code."""

import errno
import importlib
import inspect
import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
import types
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import symcere
from symcere.cli import main, settings
from symcere.cli.commands import COMMANDS, EVERY_PART
from symcere.cli.frame import Command, argument, parse
from symcere.config import Experiment
from symcere.config.baselines import baseline
from symcere.config.fields import leaves
from symcere.errors import UserError


class Corpus:
    name, fingerprint, path = "shop", "f00d", Path("/home/corpora/shop")
    num_users, num_items, counts = 3, 2, [("raw", 9), ("kept", 6)]
    train = val = test = types.SimpleNamespace(nnz=2)
    notes = ("1 rating is no number.",)


class Embeddings:
    reviews, blocks, fingerprint, path = np.zeros((4, 6), np.float16), [("minilm", 4), ("lsa", 2)], "f00d", Path("e")


@dataclass
class Run:
    name: str = "shop-symcere-3f2a"
    metrics: dict = field(default_factory=lambda: {"test_ndcg_at_10": np.float32(0.25), "test_recall_at_10": np.nan})
    notes: tuple = ("k = 50 is beyond the catalogue",)


RESULTS = {
    "prepare": Corpus(),
    "embed": Embeddings(),
    "train": Run(),
    "baselines": {"ease": {"about": "closed form"}},
    "ls": [{"name": "corpora/shop", "size": 1_300_000}],
}


@pytest.fixture
def calls(monkeypatch) -> list:
    """The calls of steps, which are not made: ``(name, arguments, keywords)``."""
    made = []

    class Steps(types.ModuleType):
        def __getattr__(self, name):
            def step(*args, **kwargs):
                made.append((name, args, kwargs))
                return RESULTS.get(name, {"done": name})

            return step

    fake = Steps("symcere.steps")
    fake.__path__ = [str(Path(symcere.__file__).parent / "steps")]  # the modules in it stay what they are
    monkeypatch.setitem(sys.modules, "symcere.steps", fake)
    monkeypatch.setattr(symcere, "steps", fake, raising=False)
    return made


def failing(monkeypatch, error: BaseException) -> None:
    def step(*_, **__):
        raise error

    fake = types.ModuleType("symcere.steps")
    fake.ls = step
    monkeypatch.setitem(sys.modules, "symcere.steps", fake)
    monkeypatch.setattr(symcere, "steps", fake, raising=False)


# ---------------------------------------------------------------- lines and calls

LINES = [
    ("datasets", "datasets", (), {}),
    ("fetch yelp --accept", "fetch", ("yelp", None), {}),
    (
        "prepare shop --source a.csv b.csv --source c.csv --format csv --column user=customer item=sku"
        " --data.core 3 --data.split.kind=last --name mine",
        "prepare",
        ("shop", ["a.csv", "b.csv", "c.csv"]),
        {
            "format": "csv",
            "columns": {"user": "customer", "item": "sku"},
            "settings": {"core": "3", "split.kind": "last"},
            "name": "mine",
        },
    ),
    (
        "prepare shop --split-files there",
        "prepare",
        ("shop", []),
        {"settings": {"split.kind": "files", "split.files": "there"}, "format": "", "columns": {}, "name": ""},
    ),
    ("embed shop --text.encoders minilm,lsa", "embed", ("shop", {"text.encoders": "minilm,lsa"}), {}),
    (
        "embed shop --text.encoders '[{name: minilm, max_tokens: 128}, lsa]'",
        "embed",
        ("shop", {"text.encoders": [{"name": "minilm", "max_tokens": 128}, "lsa"]}),
        {},
    ),
    (
        "train shop --objective.ranking.temperature 0.2 --seed 1 --train.compile --closed-form.beta -0.5",
        "train",
        ("shop",),
        {
            "experiment": None,
            "settings": {
                "objective.ranking.temperature": "0.2",
                "train.seed": "1",
                "train.compile": "true",
                "closed_form.beta": "-0.5",
            },
            "method": "",
            "resume": "",
        },
    ),
    (
        "train --train.compile false shop --baseline lightgcn --name x",
        "train",
        ("shop",),
        {"settings": {"train.compile": "false"}, "method": "lightgcn", "name": "x"},
    ),
    ("train --train.deterministic shop", "train", ("shop",), {"settings": {"train.deterministic": "true"}}),
    ("evaluate r1", "evaluate", ("r1",), {"split": "test", "popularity_weights": (), "settings": {}, "cold": False}),
    ("evaluate r1 --cold", "evaluate", ("r1",), {"cold": True}),
    (
        "evaluate r1 --split val --popularity-weights 0,0.5,1 --evaluate.ks 5",
        "evaluate",
        ("r1",),
        {"split": "val", "popularity_weights": (0.0, 0.5, 1.0), "settings": {"evaluate.ks": "5"}},
    ),
    (
        "recommend r1 --user ann bob -k 3 --popularity-weight 0 --no-why",
        "recommend",
        ("r1", ["ann", "bob"], 3),
        {"popularity_weight": 0.0, "why": False, "candidates": None, "exclude": None},
    ),
    ("export r1 --out there", "export", ("r1", Path("there"), None), {}),
    ("register r1 --name shop", "register", ("r1", "shop"), {"best_of": ""}),
    ("register --best-of first", "register", ("", ""), {"best_of": "first"}),
    ("promote shop --force", "promote", ("shop",), {"metric": "ndcg_at_10", "force": True}),
    (
        "score shop --input users.parquet --out there -k 5 --seen --workers 2",
        "score",
        ("shop", Path("users.parquet"), Path("there"), 5),
        {"exclude_seen": False, "workers": 2, "why": False, "candidates": None},
    ),
    ("baselines", "baselines", (), {}),
    ("demo", "demo", (), {}),
    ("ls", "ls", (), {}),
    ("rm a b --force", "rm", (["a", "b"],), {"force": True}),
]


@pytest.mark.parametrize(("line", "step", "arguments", "keywords"), LINES, ids=[line[0][:40] for line in LINES])
def test_a_line_becomes_a_call(calls, capsys, line, step, arguments, keywords):
    assert main(shlex.split(line)) == 0
    assert [(name, args) for name, args, _ in calls] == [(step, arguments)]
    given = calls[0][2]
    assert {k: given[k] for k in keywords} == keywords
    assert capsys.readouterr().out


def test_calls_fit_the_real_steps(calls):
    for line, *_ in LINES:
        main(shlex.split(line))
    del sys.modules["symcere.steps"]
    real = importlib.import_module("symcere.steps")
    for name, args, kwargs in calls:
        inspect.signature(getattr(real, name)).bind(*args, **kwargs)


def test_an_experiment_file_and_flags_over_it(calls, tmp_path):
    file = tmp_path / "experiment.yaml"
    file.write_text("data: {dataset: shop, core: 3}\ntext: {encoders: lsa}\ntrain: {lr: 0.01, seed: 4}\n")
    assert main(["train", "--config", str(file), "--train.lr", "0.1"]) == 0
    assert main(["embed", "--config", str(file)]) == 0
    assert main(["prepare", "--config", str(file), "--data.core", "5"]) == 0
    assert main(["prepare", "other", "--config", str(file)]) == 0
    assert main(["evaluate", "r1", "--config", str(file)]) == 0
    train, embed, prepare, other, evaluate = calls
    assert train[1] == ("shop",)
    assert train[2]["experiment"] == Experiment.load(file)
    assert train[2]["settings"] == {"data.core": 3, "train.lr": "0.1"}
    assert embed[1] == ("shop", {"text.encoders": "lsa"})
    assert (prepare[1][0], prepare[2]["settings"]) == ("shop", {"core": "5"})
    assert (other[1][0], other[2]["settings"]) == ("other", {"core": 3})
    assert evaluate[2]["settings"] == {}


def test_a_run_is_called_by_the_method_of_its_file(calls, tmp_path):
    lightgcn = baseline("lightgcn", {"data.dataset": "shop", "train.seed": 3, "evaluate.ks": "5"})
    for name, experiment in (("a", lightgcn), ("my own", lightgcn.replace({"model.layers": 7}))):
        file = tmp_path / f"{name}.yaml"
        file.write_text(experiment.to_yaml())
        assert main(["train", "--config", str(file)]) == 0
    assert main(["train", "shop"]) == 0
    assert [call[2]["method"] for call in calls] == ["lightgcn", "my-own", ""]


def test_a_stored_experiment_repeats_its_run(calls, tmp_path):
    experiment = Experiment().replace({"data.dataset": "shop", "text.encoders": "minilm,lsa", "train.seed": 3})
    file = tmp_path / "experiment.yaml"
    file.write_text(experiment.to_yaml())
    assert main(["train", "--config", str(file)]) == 0
    assert calls[0][1] == ("shop",)
    assert calls[0][2]["experiment"] == experiment
    assert experiment.replace(calls[0][2]["settings"]) == experiment


def test_lists_of_items_come_from_files(calls, tmp_path):
    (tmp_path / "stock.txt").write_text("a 1\n\n b\n")
    assert main(["recommend", "r", "--user", "u", "--candidates", str(tmp_path / "stock.txt")]) == 0
    assert calls[0][2]["candidates"] == ["a 1", "b"]


def test_terms_are_shown_and_consent_is_asked(calls, monkeypatch, capsys):
    main(["fetch", "yelp", "--accept"])
    main(["fetch", "yelp"])
    told, untold = (call[2]["accept"] for call in calls)
    assert told("these terms") is True
    assert untold("these terms") is False  # nobody to ask
    assert capsys.readouterr().err.count("these terms") == 2
    for answer, consent in (("y\n", True), ("\n", False), ("", False)):
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: True, readline=lambda a=answer: a))
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        assert untold("these terms") is consent


@pytest.mark.parametrize("name", [leaf.name for leaf in leaves(Experiment) if leaf.name != "data.dataset"])
def test_every_setting_is_a_flag(name):
    taken, rest = settings.take([f"--{name}", "true", "x"], EVERY_PART)
    assert (taken, rest) == ({name: "true"}, ["x"])


def test_settings_end_where_options_end():
    assert settings.take(["--train.lr", "1", "--", "--train.lr", "2"], EVERY_PART) == (
        {"train.lr": "1"},
        ["--", "--train.lr", "2"],
    )


# ---------------------------------------------------------------- output


def test_json_is_one_object_on_stdout(calls, capsys):
    assert main(["train", "shop", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {
        "name": "shop-symcere-3f2a",
        "metrics": {"test_ndcg_at_10": 0.25, "test_recall_at_10": None},
        "notes": ["k = 50 is beyond the catalogue"],
    }
    assert main(["--json", "baselines"]) == 0  # a list gets a name
    assert json.loads(capsys.readouterr().out) == {"baselines": [{"baseline": "ease", "about": "closed form"}]}
    assert main(["prepare", "shop", "--json"]) == 0
    prepared = json.loads(capsys.readouterr().out)
    assert (prepared["users"], prepared["counts"][0]) == (3, {"step": "raw", "reviews": 9})
    assert prepared["notes"] == list(Corpus.notes)  # what was lost is said
    assert main(["embed", "shop", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["encoders"] == {"minilm": 4, "lsa": 2}


def test_what_libraries_print_does_not_disturb_json(monkeypatch, capsys):
    fake = types.ModuleType("symcere.steps")
    fake.ls = lambda: print("a library speaks") or {"a": 1}
    monkeypatch.setitem(sys.modules, "symcere.steps", fake)
    monkeypatch.setattr(symcere, "steps", fake, raising=False)
    assert main(["ls", "--json"]) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ({"a": 1}, "a library speaks\n")


def test_people_get_names_and_figures(calls, capsys):
    main(["train", "shop"])
    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines() if "test" in line] == [
        ["test", "ndcg", "0.2500"],
        ["test", "recall", "–"],
    ]
    assert "note: k = 50 is beyond the catalogue" in out


def test_sizes_are_for_people_and_for_programs(calls, capsys, monkeypatch):
    main(["ls"])
    assert "1.3 MB" in capsys.readouterr().out
    main(["ls", "--json"])
    assert json.loads(capsys.readouterr().out) == {"ls": RESULTS["ls"]}
    monkeypatch.setitem(RESULTS, "ls", [])
    main(["ls"])
    assert capsys.readouterr().out.strip() == "Nothing is stored yet."


def test_help(capsys):
    assert main([]) == main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert f"  {command.name} " in out
        assert main([command.name, "--help"]) == 0
        assert command.about in capsys.readouterr().out
    main(["train", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "--objective.ranking.temperature X tau: logits are inner products / tau. Default: 0.4" in out
    assert "--train.seed, --seed N" in out
    assert "One of bpr, softmax, supcon, sincere, symcere, directau. Default: sincere" in out
    assert "--split-files DIR" in out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{symcere.__version__}\n"


def test_help_is_immediate():
    """No heavy import, and less than 0.4 s of processor time, however busy the machine is."""
    code = (
        "import sys; from symcere.cli import main; code = main(sys.argv[1:]); "
        "print(*{'torch', 'numpy', 'mlflow', 'ray', 'rich', 'pyarrow'} & set(sys.modules)); sys.exit(code)"
    )
    for line in (["--help"], ["train", "--help"]):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        told = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert told.stdout.splitlines()[-1] == ""
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.4


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian shop", "Unknown command 'trian'. Did you mean train?"),
        ("--jsn ls", "Unknown option '--jsn'."),
        ("train shop --temperature 1", "Did you mean --objective.ranking.temperature or"),
        ("train shop --objective.rankin.temprature 1", "Unknown option '--objective.rankin.temprature'. Did you mean"),
        ("train shop --basline x", "Unknown option '--basline'. Did you mean --baseline"),
        ("train shop --base x", "Unknown option '--base'."),  # no abbreviations: they break when an option is added
        ("train shop --data.dataset x", "Unknown option '--data.dataset'."),
        ("embed shop --train.lr 1", "Unknown option '--train.lr'."),
        ("ls --train.lr 1", "Unknown option '--train.lr'."),
        ("train shop --train.lr", "--train.lr needs a value: learning rate of Adam."),
        ("train shop --train.lr --seed 1", "--train.lr needs a value"),
        ("embed shop --text.encoders [a", "is not a valid list or mapping"),
        ("train", "Which data set?"),
        ("train shop other", "Unrecognized arguments: other."),
        ("train --config nowhere.yaml", "Cannot read nowhere.yaml: No such file"),
        ("recommend r", "--user"),
        ("recommend r --user a -k 0", "must be a whole number of at least 1, not '0'"),
        ("explain r --seed -1", "must be a whole number of at least 0, not '-1'"),
        ("recommend r --user a --exclude nowhere", "Cannot read nowhere: No such file"),
        ("evaluate r --popularity-weights 0,a", "takes numbers with commas between them, not '0,a'"),
        ("evaluate r --split train", "invalid choice: 'train'"),
        ("prepare shop --column user", "--column takes ROLE=COLUMN (user=reviewer), not 'user'"),
    ],
)
def test_a_wrong_line_is_a_paragraph_and_code_2(calls, capsys, line, message):
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert calls == []


def test_an_unknown_key_in_an_experiment_file(calls, capsys, tmp_path):
    file = tmp_path / "e.yaml"
    file.write_text("data: {dataset: shop}\ntrain: {learning_rat: 1}\n")
    for command in ("prepare", "embed", "train"):
        assert main([command, "--config", str(file)]) == 2
        assert "Unknown setting 'train.learning_rat'." in capsys.readouterr().err
    assert main(["train", "--config", str(file), "--baseline", "ease"]) == 2
    assert calls == []


def test_two_whole_experiments_are_refused(calls, capsys, tmp_path):
    file = tmp_path / "e.yaml"
    file.write_text("data: {dataset: shop}\n")
    assert main(["train", "--config", str(file), "--baseline", "ease"]) == 2
    assert "name one of them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("It is\nbroken."), 2, "error: It is broken.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), 2, "The disk is full while writing /data/x."),
        (RuntimeError("(sqlite3.OperationalError) database or disk is full"), 2, "The disk is full. Free some space"),
        (MemoryError(), 2, "Not enough memory."),
        (KeyError("lost"), 1, "error: KeyError: 'lost' (This is an error of symcere itself; --debug"),
        (KeyboardInterrupt(), 130, "\nInterrupted; nothing half-written was kept.\n"),
        (SystemExit(143), 143, ""),
    ],
)
def test_errors_of_steps(monkeypatch, capsys, error, code, message):
    failing(monkeypatch, error)
    assert main(["ls"]) == code
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(monkeypatch, capsys):
    failing(monkeypatch, UserError("It is broken."))
    assert main(["ls", "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("error: It is broken.\n")
    assert main(["--debug", "ls"]) == 2
    assert "Traceback" in capsys.readouterr().err


def attentive() -> None:
    """For a child: a suite in the background of a shell, or under ``nohup``, hands down that it ignores signals."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def under_way(body: str, before: str = "", path: str = "") -> subprocess.Popen:
    """A process in the middle of a command, whose step is ``body``; it has printed ``ready``."""
    code = f"""
import sys, time, types, symcere
{before}
def ls():
    {body}
fake = types.ModuleType("symcere.steps")
fake.ls = ls
sys.modules["symcere.steps"] = symcere.steps = fake
from symcere.cli import main
sys.exit(main(["ls"]))
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([path, os.environ.get("PYTHONPATH", "")])},
        preexec_fn=attentive,
    )
    assert child.stdout.readline() == "ready\n"
    return child


def test_ctrl_c_is_one_line():
    child = under_way("print('ready', flush=True); time.sleep(60)")
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert err.strip() == "Interrupted; nothing half-written was kept."


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_a_scheduler_stops_is_closed(number, tmp_path):
    """Whatever the command: an unfinished folder would stay for ever."""
    child = under_way(
        f"with writing(Path({str(tmp_path)!r}) / 'thing') as part:\n"
        "        part.mkdir(); print('ready', flush=True); time.sleep(60)",
        "from symcere.home import writing; from pathlib import Path",
    )
    child.send_signal(number)
    _, err = child.communicate(timeout=30)
    assert (child.returncode, err) == (128 + number, "")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_waits_for_an_import(tmp_path):
    """What is loading loads whole: half of it would be lost in a bare ``except``, or abort in C++."""
    (tmp_path / "large.py").write_text(
        "import time\nprint('ready', flush=True)\ntry:\n    time.sleep(1)\nexcept BaseException:\n    print('cut')\n"
        "print('whole', flush=True)\n"
    )
    child = under_way("import large; time.sleep(60)", path=str(tmp_path))
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert out == "whole\n"
    assert err.strip() == "Interrupted; nothing half-written was kept."


def test_the_handler_of_others_stays():
    before = signal.getsignal(signal.SIGINT)
    assert main(["--version"]) == 0
    assert signal.getsignal(signal.SIGINT) is before

    def mine(*_):
        pass

    signal.signal(signal.SIGINT, mine)
    try:
        assert main(["--version"]) == 0
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_past_the_end_is_silent():
    """Python tears itself down for a while when all is said and done."""
    code = """
import atexit, sys, time
from symcere.cli import main
atexit.register(lambda: (print("ready", flush=True), time.sleep(60)))
sys.argv = ["symcere", "--version"]
sys.exit(main())
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=attentive,
    )
    assert [child.stdout.readline() for _ in range(2)] == [f"{symcere.__version__}\n", "ready\n"]
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=30)[1] == ""
    assert child.returncode == -signal.SIGINT


@pytest.mark.slow
def test_ctrl_c_at_any_moment(home):
    """From the first imports to the end: one line, its exit code, nothing half-written, no run left running."""
    from symcere import tracking

    command = [sys.executable, "-m", "symcere.cli", "train", "synthetic", "--baseline", "lightgcn"]
    start = time.monotonic()
    assert subprocess.run([*command, "--train.epochs", "1"], stderr=subprocess.PIPE).returncode == 0
    whole = time.monotonic() - start  # from the imports past the beginning of the run, on any machine
    endless = ["--train.epochs", "100000", "--train.patience", "100000"]
    ends = []
    for moment in range(12):
        child = subprocess.Popen(
            [*command, *endless],
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=attentive,
        )
        time.sleep(0.25 + whole * moment / 9)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=120)
        assert "Traceback" not in err, moment
        ending = r"Interrupted; (nothing half-written was kept|`symcere train --resume .*` goes on with it)\.\n$"
        assert re.search(ending, err), (moment, child.returncode, err)
        ends.append(child.returncode)
    assert ends == [130] * 12
    assert [p for p in home.rglob(".*") if p.name.endswith((".part", ".old", ".lock", ".scratch"))] == []
    statuses = [run.status for run in tracking.list_runs("synthetic")]
    assert set(statuses) == {"FINISHED", "KILLED"}


@pytest.mark.parametrize("line", ["--help", "train --help", "--version"])
def test_a_reader_that_leaves_early(line, tmp_path):
    end, pipe = os.pipe()
    os.close(end)
    told = subprocess.run(
        [sys.executable, "-m", "symcere.cli", *line.split()], stdout=pipe, stderr=subprocess.PIPE, text=True
    )
    os.close(pipe)
    assert told.stderr == ""
    assert told.returncode in (0, 141)  # argparse itself forgives a closed pipe


# ---------------------------------------------------------------- declaration


def test_a_new_command_is_a_few_lines(capsys):
    command = Command("greet", "say hello", lambda args: args.name, (argument("name", metavar="NAME"),), ("train",))
    args = parse(command, ["ann", "--seed", "3"])
    assert (args.name, args.settings, args.config) == ("ann", {"train.seed": "3"}, None)
    with pytest.raises(UserError, match="required: NAME"):
        parse(command, [])


def test_command_names_are_unique():
    assert len({c.name for c in COMMANDS}) == len(COMMANDS)
