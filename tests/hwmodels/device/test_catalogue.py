"""Devices by name: the folder, plug-ins of other packages, name clashes and illegal paths."""

import sys

import pytest

from hwmodels import DeviceError, bundled_devices, device_names, load_device

from .test_device_files import GOOD


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package with files and entry points on the path, as pip would leave it."""

    def install(package, files, points):
        site = tmp_path / "site"
        (site / package).mkdir(parents=True)
        for name, text in {"__init__.py": "", **files}.items():
            (site / package / name).parent.mkdir(exist_ok=True)
            (site / package / name).write_text(text)
        info = site / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = "".join(f"{name} = {value}\n" for name, value in points.items())
        (info / "entry_points.txt").write_text(f"[qbert_opt.devices]\n{lines}")
        monkeypatch.delitem(sys.modules, package, raising=False)
        monkeypatch.syspath_prepend(site)

    return install


def test_another_package_brings_a_folder_of_devices_and_a_single_file(install):
    files = {
        "devices/acme-soc.yaml": GOOD,
        "devices/readme.txt": "no device",
        "npu.yaml": "inherit: acme-soc\nid: npu\n",
    }
    install("acme_boards", files, {"acme": "acme_boards:devices", "acme-npu": "acme_boards:npu.yaml"})
    assert set(device_names()) == {*bundled_devices(), "acme-soc", "acme-npu"}
    assert load_device("acme-soc").id == load_device("acme-soc.yaml").id == "tiny"
    assert load_device("acme-npu").id == "npu" and load_device("car-soc").id == "car-soc"


def test_a_package_that_is_nothing_but_device_files(install):
    install("acme_files", {"acme-soc.yaml": GOOD}, {"acme": "acme_files"})
    assert load_device("acme-soc").id == "tiny"


def test_a_name_that_two_packages_claim_is_refused_with_both(install):
    install("acme_boards", {"devices/car-soc.yaml": GOOD}, {"acme": "acme_boards:devices"})
    with pytest.raises(DeviceError, match="car-soc: found it in hwmodels and acme_boards; legal is one"):
        load_device("car-soc")
    assert device_names() == bundled_devices() and load_device("rpi5").id == "rpi5"


@pytest.mark.parametrize(
    ("init", "value", "says"),
    [
        ("", "acme_broken:nothing", "acme_broken:nothing: found no such file or folder"),
        ("", "acme_missing", "acme_missing: found ModuleNotFoundError"),
        ("raise RuntimeError('two\\nlines')", "acme_broken:devices", "found RuntimeError: two lines; legal is"),
    ],
)
def test_a_plug_in_that_cannot_be_read_is_named(install, init, value, says):
    install("acme_broken", {"__init__.py": init}, {"acme": value})
    with pytest.raises(DeviceError, match="acme_broken: entry point acme = ") as refused:
        load_device("rpi5")
    assert says in str(refused.value) and str(refused.value).isprintable()


NAMES = ["x" * 300, "x" * 10_000, "a\0b", "a\nb", "", "@", "@7W", "car-soc@", "/dev/null", "../"]


@pytest.mark.parametrize("name", NAMES, ids=[ascii(name)[:12] for name in NAMES])
def test_illegal_paths_are_rejected_in_one_line(name):
    with pytest.raises(DeviceError) as refused:
        load_device(name)
    assert str(refused.value).isprintable() and refused.value.exit_code == 4


def test_a_file_whose_name_cannot_be_printed(tmp_path):
    (tmp_path / "a\nb.yaml").write_text("id: 1\n")
    with pytest.raises(DeviceError, match=r"'a\\nb\.yaml':1") as refused:
        load_device(str(tmp_path / "a\nb.yaml"))
    assert str(refused.value).isprintable()
