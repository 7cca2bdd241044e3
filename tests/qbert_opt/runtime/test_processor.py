"""What a processor says of itself."""

import pytest

from qbert_opt.runtime import processor


@pytest.mark.parametrize(
    ("machine", "flags", "exact"),
    [
        ("x86_64", "fpu avx avx2 fma", False),
        ("x86_64", "fpu avx512f avx512_vnni", True),
        ("AMD64", "fpu avx2 avx_vnni", True),
        ("x86_64", "", False),
        ("aarch64", "", True),
    ],
)
def test_vnni_sums_bytes_exactly(tmp_path, monkeypatch, machine, flags, exact):
    """As Linux lists them: the first processor's flags count; what is not x86 has no 16-bit step."""
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor\t: 0\nmodel name\t: avx512_vnni\nflags\t\t: {flags}\nbugs\t\t:\n")
    monkeypatch.setattr(processor, "CPUINFO", info)
    monkeypatch.setattr(processor.platform, "machine", lambda: machine)
    assert processor.sums_bytes_exactly.__wrapped__() is exact


def test_elsewhere_the_processor_is_not_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "none")
    assert processor.sums_bytes_exactly.__wrapped__()
