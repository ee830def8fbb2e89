"""Jobs of a multirun and their parent run."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.tracking import client_of, logged_run
from omegaconf import OmegaConf

from fer_lightning.reporting import mlflow_parents


def test_jobs_of_a_multirun_share_a_parent_run_that_names_the_best(store, tmp_path):
    sweep = tmp_path / "12-00-00_multirun_custom_cnn"
    config = OmegaConf.create(
        {
            "tracking": {"uri": None, "local_dir": str(store), "experiment_name": "faces", "timeout": 5},
            "hydra": {"sweep": {"dir": str(sweep)}},
            "objective": "val/accuracy",
            "objective_mode": "max",
        }
    )
    callback = mlflow_parents.MultirunParent()
    callback.on_multirun_start(config)
    jobs = []
    for lr, scores in ((1e-4, (0.5, 0.55)), (3e-4, (0.7, 0.6)), (1.0, (float("nan"),))):
        params = {"model": "vgg", "optimizer.lr": lr}
        with logged_run(store, tmp_path / "job", run_name=f"vgg {lr}", params=params, sweep_dir=sweep) as (logger,):
            for epoch, score in enumerate(scores, start=1):
                logger.log_metrics({"val/accuracy": score}, step=epoch)
        jobs.append(logger.run_id)
    with (
        pytest.raises(RuntimeError),
        logged_run(store, tmp_path / "job", params={"model": "vgg", "optimizer.lr": 9}, sweep_dir=sweep),
    ):
        raise RuntimeError("diverged")
    client = client_of(store)
    (parent_id,) = {client.get_run(job).data.tags["mlflow.parentRunId"] for job in jobs}
    assert client.get_run(parent_id).info.status == "RUNNING"
    callback.on_multirun_end(config)
    parent = client.get_run(parent_id)
    assert (parent.info.run_name, parent.info.status) == (sweep.name, "FINISHED")
    expected = {
        "sweep_dir": str(sweep),
        "jobs": "4",
        "jobs_failed": "1",
        "best_run": "vgg 0.0003",
        "best_run_id": jobs[1],
        "best.optimizer.lr": "0.0003",
    }
    assert expected.items() <= parent.data.tags.items()
    assert "best.model" not in parent.data.tags
    assert parent.data.metrics == {"best/val/accuracy": 0.7}


def test_a_multirun_can_minimise(store, tmp_path):
    sweep = tmp_path / "sweep"
    for loss in (2.0, 1.0, 3.0):
        with logged_run(store, tmp_path / "job", run_name=f"loss {loss}", sweep_dir=sweep) as (logger,):
            logger.log_metrics({"val/f1_sad&angry": loss}, step=1)
    parent = client_of(store).get_run(logger.run_id).data.tags["mlflow.parentRunId"]
    mlflow_parents.log_summary(client_of(store), logger.experiment_id, parent, "val/f1_sad&angry", "min")
    run = client_of(store).get_run(parent)
    assert (run.data.metrics["best/val/f1_sad_angry"], run.data.tags["best_run"]) == (1.0, "loss 1.0")


def test_jobs_that_start_simultaneously_share_one_parent(store, tmp_path):
    client = client_of(store)
    experiment = client.create_experiment("simultaneous")
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(mlflow_parents.parent_run, client, experiment, tmp_path / "sweep") for _ in range(8)]
        (parent,) = {future.result() for future in futures}
    assert [run.info.run_id for run in client.search_runs([experiment])] == [parent]
    assert mlflow_parents.parent_run(client, experiment, tmp_path / "another") != parent


def test_a_parent_run_ends_even_if_its_results_cannot_be_stored(store, tmp_path, caplog, monkeypatch):
    study = mlflow_parents.StudyRun(None, str(store), "faces", timeout=5)
    study.open(None, study="s", name="lr")
    study.close({"best/val/f1_sad&angry": 0.5}, {"best_trial": "0"}, None, [tmp_path / "missing.html"])
    run = client_of(store).get_run(study.run_id)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"best/val/f1_sad_angry": 0.5})
    assert "MLflow lacks results of the study" in caplog.text

    def fail(*_: object) -> None:
        raise OSError("disk full")

    multirun = mlflow_parents.MultirunParent()
    multirun._parent = client_of(store), run.info.experiment_id, study.run_id
    study.open(study.run_id, study="s", name="lr")
    monkeypatch.setattr(mlflow_parents, "log_summary", fail)
    multirun._close("FINISHED", "val/accuracy")
    assert client_of(store).get_run(study.run_id).info.status == "FINISHED"
    assert "MLflow lacks the summary of the multirun (disk full)" in caplog.text
