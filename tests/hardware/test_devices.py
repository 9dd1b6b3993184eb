import jax
import pytest

from agentrl.hardware import devices, roofline


@pytest.mark.parametrize(
    ("device_kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5e", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU v6e", "v6e"),
        ("TPU7x", "v7x"),
        ("NVIDIA A100-SXM4-40GB", "a100-40g"),
        ("NVIDIA A100-SXM4-80GB", "a100-80g"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
    ],
)
def test_kinds_of_jax_are_found(device_kind, name):
    found = devices.find(device_kind)
    assert found is devices.get(name)
    assert (found.platform == "tpu") == device_kind.startswith("TPU")


@pytest.mark.parametrize("device_kind", ["cpu", "NVIDIA GeForce RTX 4090", "TPU v3"])
def test_other_kinds_are_not_guessed(device_kind):
    assert devices.find(device_kind) is None


def test_names_are_unique_and_magnitudes_plausible():
    assert len(devices.names()) == len(set(devices.names())) == len(devices.DEVICES)
    for device in devices.DEVICES:
        assert 1e14 < device.flops < 1e16
        assert 5e11 < device.bandwidth < 1e13
        assert 10 * devices.GIB < device.hbm_bytes < 300 * devices.GIB


def test_peaks_come_from_the_table_for_all_devices(monkeypatch):
    class Device:
        device_kind = "NVIDIA H100 80GB HBM3"

    monkeypatch.setattr(jax, "devices", lambda: [Device()] * 4)
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    assert roofline.peak_flops() == 4 * 989e12
    assert roofline.memory_bandwidth.__wrapped__() == 4 * 3350e9
