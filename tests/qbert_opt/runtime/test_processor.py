"""What a processor says of itself."""

import pytest

from qbert_opt.runtime import processor


@pytest.mark.parametrize(
    ("machine", "flags", "vnni", "exact"),
    [
        ("x86_64", "fpu avx avx2 fma", False, False),
        ("x86_64", "fpu avx512f avx512_vnni", True, True),
        ("AMD64", "fpu avx2 avx_vnni", True, True),
        ("x86_64", "", False, False),
        ("aarch64", "", False, True),
    ],
)
def test_vnni_sums_bytes_exactly(tmp_path, monkeypatch, machine, flags, vnni, exact):
    """As Linux lists them: the first processor's flags count; what is not x86 has no 16-bit step."""
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor\t: 0\nmodel name\t: avx512_vnni\nflags\t\t: {flags}\nbugs\t\t:\n")
    monkeypatch.setattr(processor, "CPUINFO", info)
    monkeypatch.setattr(processor.platform, "machine", lambda: machine)
    monkeypatch.setattr(processor, "has_vnni", processor.has_vnni.__wrapped__)
    assert processor.has_vnni() is vnni and processor.sums_bytes_exactly() is exact


def test_elsewhere_the_processor_is_not_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "none")
    assert processor.sums_bytes_exactly() and not processor.has_vnni.__wrapped__()
