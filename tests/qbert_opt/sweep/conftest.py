"""A Dask cluster inside this process, and a sweep of the tiny model that takes a second."""

import logging

import pytest


@pytest.fixture(scope="session")
def dask_client():
    """A client of one worker that is a thread of this process."""
    from distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None)
    client = Client(cluster)
    yield client
    client.close()
    cluster.close()


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
