"""A Dask cluster inside this process, and a sweep of the tiny model that takes a second."""

import logging

import pytest


@pytest.fixture(scope="session")
def dask_client():
    """A client of one worker that is a thread of this process."""
    import dask
    from distributed import Client, LocalCluster

    from qbert_opt.sweep.cluster import SETTINGS

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with (
        dask.config.set(SETTINGS),
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory):
    """A cache for tests that need true scores, which are then made once."""
    return tmp_path_factory.mktemp("sweep") / "cache"


@pytest.fixture
def quick_steps(monkeypatch, reference):
    """Steps that take no time: every score is empty, every plan gives the bundled model's matrices 4 bits."""
    from qbert_opt.planning.recipes import recipe_allocation
    from qbert_opt.spec.allocation import write_allocation
    from qbert_opt.spec.limits import Limits
    from qbert_opt.sweep.steps import score, solve

    plan = recipe_allocation(reference, "uniform:4bit/rows:each/gptq", Limits())
    monkeypatch.setattr(score, "make", lambda work, folder: (folder / "scores.json").write_text("{}"))
    monkeypatch.setattr(solve, "make", lambda work, folder: write_allocation(plan, folder / "allocation.json"))


@pytest.fixture
def sweep_file(tmp_path, tiny_folder, data_file):
    """Write a sweep file of the tiny model; keywords replace or add keys, None removes one."""
    import yaml

    def write(name="sweep.yaml", **changes):
        content = {
            "models": [{"folder": str(tiny_folder), "name": "tiny"}], "data": str(data_file), "methods": ["rtn"],
            "devices": ["car-soc"], "budgets": ["4bit"], "until": "solve", "bits": "2,8",
            "groupings": "rows:1,columns:32", "calibration_samples": 16, "scoring_samples": 16,
        }  # fmt: skip
        content = {key: value for key, value in (content | changes).items() if value is not None}
        path = tmp_path / name
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write
