"""benchmarks.quality trains by the command line, goes on after a stop, and keeps what it found."""

import argparse
import json

import pytest
from matplotlib.figure import Figure

import transformers4rec_ext as tr
from benchmarks import report
from benchmarks.quality import __main__ as runner
from benchmarks.quality import matrix, records
from benchmarks.quality import report as quality
from transformers4rec_ext.training import RunConfig
from transformers4rec_ext.training.folder import RunFolder
from transformers4rec_ext.training.run import begin_run

TINY = matrix.Dataset(
    "tiny",
    "Tiny",
    ("--exclude-seen", "--epochs", "2", "--d-model", "8", "--max-length", "5"),
    ((matrix.METRIC, "NDCG@10"), ("recall_at_10", "Recall@10")),
    (("somebody", matrix.METRIC, 0.5),),
)
RUN = matrix.Run(TINY, matrix.FULL, 0)


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Options of the runner for a small set, whose records stay out of the repository."""
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    sessions = tr.data.synthetic_sessions(40, 50, seed=0)
    tr.data.write_sessions(folder / "interactions.parquet", sessions, items_column="items")
    monkeypatch.setattr(records, "FOLDER", tmp_path / "records")
    monkeypatch.setattr(report, "write", lambda: None)
    return argparse.Namespace(data=tmp_path / "data", runs=tmp_path / "runs", threads=1)


def test_a_run_leaves_a_record_a_picture_and_rows(options):
    assert "Not run yet" in quality.table(TINY)
    assert runner._state(RUN, options.runs) == "not begun"
    assert runner.train(RUN, options)
    record = records.read(RUN)
    assert record["epochs"] == len(record["validation"]) == 2
    assert runner._state(RUN, options.runs).startswith("done, test NDCG@10 0.")
    assert (records.FOLDER / "tiny.png").stat().st_size > 0
    shown = f"| full softmax | 1 | {record['model']['ndcg_at_10']:.4f} |"
    assert shown in quality.table(TINY)


def test_the_summary_takes_the_row_that_validates_best(monkeypatch):
    """And not the one that is best in the test; published is the highest that is not counted."""

    def record(validation, test):
        return {"validation": [0.0, validation], "model": {matrix.METRIC: test}}

    _, low, high = matrix.OBJECTIVES[:3]
    found = {
        matrix.FULL: [record(0.2, 0.15)],
        low: [record(0.1, 0.9)],
        high: [record(0.3, 0.1), record(0.0, 0.2)],
    }
    bars = (
        (matrix.COUNTED, matrix.METRIC, 0.9),
        ("a", matrix.METRIC, 0.2),
        ("b", matrix.METRIC, 0.3),
        ("c", "mrr", 0.8),
    )
    some, none = TINY._replace(bars=bars), TINY._replace(title="None", bars=())
    monkeypatch.setattr(quality, "DATASETS", (some, none))
    monkeypatch.setattr(quality, "found_of", lambda dataset: found if dataset is some else {})
    *_, first, second = quality.summary().splitlines()
    ours = f"0.1500 (1) | 0.1500 ± 0.0707 (2) | {high.title}"
    assert first == f"| Tiny | NDCG@10 | {ours} | 0.9000 | 0.3000 | 0.500 |"
    assert second == "| None | NDCG@10 |  |  |  |  |  |  |"


def test_commits_of_one_machine_are_told_together():
    environment = {"cpu": "X", "cores": 2, "threads": 1, "isa": "avx2", "torch": "2.13.0"}
    rows = [{"environment": {**environment, "commit": commit}} for commit in ("b2", "a1", "b2")]
    line = quality._setting({matrix.FULL: rows})
    assert line.startswith("X, 2 cores, 1 thread(s), avx2, torch 2.13.0, commits a1, b2. ")


def test_equal_results_look_equal():
    """A thousandth does not fill the axis, and what differs more is shown as it is."""
    close, apart = Figure().subplots(1, 2)
    close.plot([0.7100, 0.7103], [0, 1], "o")
    apart.plot([0.03, 0.06], [0, 1], "o")
    before = apart.get_xlim()
    for axis in (close, apart):
        quality.widen(axis)
    low, high = close.get_xlim()
    assert high - low >= 0.1 * 0.71
    assert (low + high) / 2 == pytest.approx(0.71015)
    assert apart.get_xlim() == pytest.approx(before)


def test_a_stopped_run_goes_on(options, monkeypatch):
    commands = []
    run = runner.subprocess.run

    def stop(command, **kwargs):
        commands.append(command)
        return run([*command, "--no-such-option"], **kwargs)

    monkeypatch.setattr(runner.subprocess, "run", stop)
    assert not runner.train(RUN, options)
    assert records.read(RUN) is None
    folder = options.runs / RUN.name
    (folder / "catalogue.parquet").touch()  # killed before it was a run
    assert not runner.train(RUN, options)
    (folder / "catalogue.parquet").unlink()
    file = options.data / TINY.name / "interactions.parquet"
    config = RunConfig.from_dict(RUN.config())
    begin_run(RunFolder(folder), config, tr.data.ParquetSessions(file, "items"))
    (folder / "checkpoint.safetensors").touch()
    assert not runner.train(RUN, options)
    ways = [{"--resume", "--overwrite"} & set(command) for command in commands]
    assert ways == [set(), {"--overwrite"}, {"--resume"}]


def test_a_folder_that_was_begun_with_other_options_is_refused(options, capfd):
    folder = options.runs / RUN.name
    folder.mkdir(parents=True)
    config = RunConfig.from_dict({**RUN.config(), "d_model": 4})
    file = options.data / TINY.name / "interactions.parquet"
    begin_run(RunFolder(folder), config, tr.data.ParquetSessions(file, "items"))
    (folder / "checkpoint.safetensors").touch()
    assert not runner.train(RUN, options)
    assert "--d-model must be 4 as the run began" in capfd.readouterr().err
    assert records.read(RUN) is None


def test_a_run_that_another_process_holds_is_passed_over(options, capsys):
    (options.runs / RUN.name).mkdir(parents=True)
    with runner._held(options.runs / RUN.name) as mine:
        assert mine
        assert runner.train(RUN, options)
    assert "another process" in capsys.readouterr().out
    assert records.read(RUN) is None


def test_a_record_with_other_options_than_now_does_not_count(options):
    path = records.path_of(RUN)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"config": RUN.config()}))
    assert records.read(RUN) is not None
    for other in ({"dropout": 0.77}, {"dropout": -1}, {"gone": 1}):
        path.write_text(json.dumps({"config": {**RUN.config(), **other}}))
        assert records.read(RUN) is None


def test_a_record_without_a_newer_option_was_trained_as_before_it(options, monkeypatch):
    path = records.path_of(RUN)
    path.parent.mkdir(parents=True)
    earlier = {k: v for k, v in RUN.config().items() if k != "temperature"}
    path.write_text(json.dumps({"config": earlier}))
    for temperature, counts in ((1.0, True), (0.5, False)):
        now = {**RUN.config(), "temperature": temperature}
        monkeypatch.setattr(matrix.Run, "config", lambda run, now=now: now)
        assert (records.read(RUN) is not None) is counts


def test_the_plan_has_every_objective_once_and_more_seeds_of_the_headline_rows():
    plan = matrix.plan({"ml-1m": "uniform-1000"})
    assert len(set(plan)) == len(plan)
    sets, objectives = len(matrix.DATASETS), len(matrix.OBJECTIVES)
    assert len(plan) == sets * objectives + 2 * (sets + 1)
    assert all(run.seed == 0 for run in plan[: sets * objectives])
    again = [run for run in plan if run.dataset.name == "ml-1m" and run.seed == 2]
    assert {run.objective.name for run in again} == {"full", "uniform-1000"}


def test_the_best_sampled_objective_is_known_when_all_have_run(options):
    for place, objective in enumerate(matrix.OBJECTIVES):
        assert records.best_sampled(TINY) is None
        run = RUN._replace(objective=objective)
        path = records.path_of(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        # the full softmax validates best, and is not asked
        score = 1.0 if objective is matrix.FULL else place % 5 / 10
        path.write_text(json.dumps({"config": run.config(), "validation": [0.0, score]}))
    assert records.best_sampled(TINY) == matrix.OBJECTIVES[4].name


def test_one_command_goes_on_with_the_seeds_that_its_own_runs_call_for(options, monkeypatch):
    monkeypatch.setattr(runner, "DATASETS", (TINY,))
    monkeypatch.setattr(matrix, "DATASETS", (TINY,))
    monkeypatch.setattr("sys.argv", ["quality", "--runs", str(options.runs)])
    trained = []

    def train(run, _):
        trained.append(run.name)
        path = records.path_of(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        score = 0.5 if run.objective.name == "uniform-3000" else 0.1
        metrics = {"ndcg_at_10": score}
        record = {"config": run.config(), "validation": [score], "model": metrics}
        path.write_text(json.dumps(record))
        return True

    monkeypatch.setattr(runner, "train", train)
    assert runner.main() == 0
    first = [f"tiny/{objective.name}-seed0" for objective in matrix.OBJECTIVES]
    assert trained[: len(first)] == first
    more = [f"tiny/{name}-seed{seed}" for seed in (1, 2) for name in ("full", "uniform-3000")]
    assert trained[len(first) :] == more


def test_what_is_recorded_has_the_options_of_today():
    runs = {records.path_of(run): run for run in matrix.plan({}, everything=True)}
    recorded = sorted(records.FOLDER.glob("*/*.json"))
    assert recorded
    for path in recorded:
        assert path in runs, f"{path} is of no run"
        assert records.read(runs[path]) is not None, f"{path} has other options than its run"
