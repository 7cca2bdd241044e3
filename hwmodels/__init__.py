"""Pure hardware: what a device is, what an operation costs on it, what a whole operator graph costs.

    from hwmodels import load_device, simulate

Three rooms, each of which knows only those before it: `device` (descriptions, files, units), `cost` (one operation)
and `schedule` (a graph). Names are loaded when first used, so that reading a unit loads no graph library.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cost.operation import IntegerWork as IntegerWork
    from .cost.operation import Operation as Operation
    from .cost.operation import StoredWeight as StoredWeight
    from .cost.operation_cost import OperationCost as OperationCost
    from .cost.operation_cost import operation_cost as operation_cost
    from .cost.operation_cost import operation_costs as operation_costs
    from .cost.operation_cost import unsupported as unsupported
    from .device.catalogue import bundled_devices as bundled_devices
    from .device.catalogue import device_names as device_names
    from .device.description import Device as Device
    from .device.errors import DeviceError as DeviceError
    from .device.file_models import model_at as model_at
    from .device.loading import device_schema as device_schema
    from .device.loading import in_power_mode as in_power_mode
    from .device.loading import load_device as load_device
    from .device.loading import sourced_share as sourced_share
    from .device.measured import MISSED as MISSED
    from .device.measured import QUIET as QUIET
    from .device.measured import MeasuredFormat as MeasuredFormat
    from .device.measured import MeasuredGrid as MeasuredGrid
    from .device.measured import MeasuredMemory as MeasuredMemory
    from .device.measured import Measurements as Measurements
    from .device.measured import device_file as device_file
    from .device.provenance import figures as figures
    from .device.strict_yaml import YamlError as YamlError
    from .device.strict_yaml import parse_yaml as parse_yaml
    from .device.units import format_bandwidth as format_bandwidth
    from .device.units import format_bytes as format_bytes
    from .device.units import format_joules as format_joules
    from .device.units import format_seconds as format_seconds
    from .device.units import format_watts as format_watts
    from .device.units import parse_bytes as parse_bytes
    from .device.units import parse_quantity as parse_quantity
    from .schedule.cost_report import CostReport as CostReport
    from .schedule.limits import REMEDIES as REMEDIES
    from .schedule.list_scheduling import launches_that_stay_s as launches_that_stay_s
    from .schedule.memory import LiveTensor as LiveTensor
    from .schedule.memory import operations as operations
    from .schedule.mix import MixReport as MixReport
    from .schedule.mix import simulate_mix as simulate_mix
    from .schedule.simulate import peak_activation_bytes as peak_activation_bytes
    from .schedule.simulate import peak_bound_bytes as peak_bound_bytes
    from .schedule.simulate import scratchpad_room_bytes as scratchpad_room_bytes
    from .schedule.simulate import simulate as simulate

_HOMES = {
    "IntegerWork": ".cost.operation",
    "Operation": ".cost.operation",
    "StoredWeight": ".cost.operation",
    "OperationCost": ".cost.operation_cost",
    "operation_cost": ".cost.operation_cost",
    "operation_costs": ".cost.operation_cost",
    "unsupported": ".cost.operation_cost",
    "bundled_devices": ".device.catalogue",
    "device_names": ".device.catalogue",
    "Device": ".device.description",
    "DeviceError": ".device.errors",
    "model_at": ".device.file_models",
    "device_schema": ".device.loading",
    "in_power_mode": ".device.loading",
    "load_device": ".device.loading",
    "sourced_share": ".device.loading",
    "MISSED": ".device.measured",
    "MeasuredFormat": ".device.measured",
    "MeasuredGrid": ".device.measured",
    "MeasuredMemory": ".device.measured",
    "Measurements": ".device.measured",
    "QUIET": ".device.measured",
    "device_file": ".device.measured",
    "figures": ".device.provenance",
    "YamlError": ".device.strict_yaml",
    "parse_yaml": ".device.strict_yaml",
    "format_bandwidth": ".device.units",
    "format_bytes": ".device.units",
    "format_joules": ".device.units",
    "format_seconds": ".device.units",
    "format_watts": ".device.units",
    "parse_bytes": ".device.units",
    "parse_quantity": ".device.units",
    "CostReport": ".schedule.cost_report",
    "REMEDIES": ".schedule.limits",
    "launches_that_stay_s": ".schedule.list_scheduling",
    "LiveTensor": ".schedule.memory",
    "operations": ".schedule.memory",
    "MixReport": ".schedule.mix",
    "simulate_mix": ".schedule.mix",
    "peak_activation_bytes": ".schedule.simulate",
    "peak_bound_bytes": ".schedule.simulate",
    "scratchpad_room_bytes": ".schedule.simulate",
    "simulate": ".schedule.simulate",
}

__all__ = list(_HOMES)

if not TYPE_CHECKING:  # else a type checker would take every name for one of this package

    def __getattr__(name):
        """Load a public name from the module that defines it."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name], __name__), name)

    def __dir__():
        return sorted(_HOMES)
