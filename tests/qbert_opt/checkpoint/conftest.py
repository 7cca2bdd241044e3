"""The tiny model quantized by its plan, once, and copies of the folder to spoil."""

import shutil

import pytest

from qbert_opt.workflows.quantize import quantize_model


@pytest.fixture(scope="session")
def written(tiny, gptq_plan, file_texts, tmp_path_factory):
    """The tiny model quantized by its plan."""
    return quantize_model(tiny, gptq_plan, file_texts, tmp_path_factory.mktemp("q") / "out")


@pytest.fixture
def folder(written, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(written.folder, tmp_path / "copy")
