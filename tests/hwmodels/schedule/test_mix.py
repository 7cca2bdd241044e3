"""A device under a mix of sequence lengths."""

import pytest

from hwmodels import DeviceError, simulate, simulate_mix

from ..conftest import encoder


def test_a_mix_of_lengths_is_the_average_and_memory_the_worst(car_soc):
    short, long = (encoder(layers=1, seq=seq) for seq in (32, 256))
    report = simulate_mix([(19, short), (1, long)], car_soc, inferences_per_s=20)
    one, other = (simulate(graph, car_soc) for graph in (short, long))
    assert report.mean_latency_s == pytest.approx(0.95 * one.latency_s + 0.05 * other.latency_s)
    assert (report.tail_latency_s, report.worst_latency_s) == (one.latency_s, other.latency_s)
    assert report.peak_memory_bytes == other.peak_memory_bytes
    assert report.scratchpad_room_bytes == other.scratchpad_room_bytes < one.scratchpad_room_bytes
    assert report.dram_bandwidth_bytes_per_s == pytest.approx(20 * (0.95 * one.dram_bytes + 0.05 * other.dram_bytes))
    with pytest.raises(DeviceError, match="legal is one model"):
        simulate_mix([(1, short), (1, encoder(bits=4, layers=1))], car_soc)


@pytest.mark.parametrize("weights", [(), (-1,), (0,), (0, 0), (float("nan"),), (float("inf"),), (1e308, 1e308)])
def test_illegal_weights_are_rejected(car_soc, weights):
    with pytest.raises(DeviceError, match=r"mix: found weights .*; legal are numbers from 0 to 1e\+18 and one above 0"):
        simulate_mix([(weight, encoder(layers=1, seq=32)) for weight in weights], car_soc)
