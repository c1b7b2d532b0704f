"""A pretended GPU: tensors "on" ``cuda`` that a CPU computes with, and that refuse to mix devices.

PyTorch's own `FakeTensorMode` does the same without values. In a build of PyTorch without CUDA, a
fake tensor on ``cuda`` can neither be indexed nor differentiated, and without values no step count
and no bounding box can be computed. Here tensors have their values and lie on the CPU, and each
storage has a pretended device. The rule for mixing devices is that of `FakeTensorMode`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device('cpu')

_NEW = {Tensor.new_empty, Tensor.new_full, Tensor.new_ones, Tensor.new_tensor, Tensor.new_zeros}
"""Methods that make a tensor on the device of another."""

_GET_DEVICE, _GET_IS_CUDA = Tensor.device.__get__, Tensor.is_cuda.__get__
_BACKWARD = {torch.autograd.grad, torch.autograd.backward, Tensor.backward}
"""Functions in which PyTorch itself makes gradients of zero, on the device of the tensors."""

_SPECIAL = {*_NEW, *_BACKWARD, _GET_DEVICE, _GET_IS_CUDA, Tensor.cpu, Tensor.numpy, Tensor.to}
"""Functions that ask for a device or depend on one, beside those with a keyword ``device``."""

_MOVE = {torch.ops.aten.copy_.default}
"""Operations between devices."""

_INDEX = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
}
"""Operations whose indices, the second input, may be on the CPU."""


class Placement:
    """Pretended devices of all tensors, and the operations that were refused.

    Attributes
    ----------
    refused : list of str
        Operations on tensors of several devices. The list shows them even where the code under
        test catches the error and continues on the CPU.
    used : Counter of torch.device
        Number of operations on each device.
    default : torch.device
        Device of a tensor that is made without a device.
    """

    def __init__(self) -> None:
        # A weak reference keeps the address of a storage from being used again.
        self._devices: dict[int, tuple[StorageWeakRef, torch.device]] = {}
        self.refused: list[str] = []
        self.used: Counter[torch.device] = Counter()
        self.default = CPU

    def device_of(self, tensor: Tensor) -> torch.device:
        """Return the pretended device of a tensor."""
        return self._devices.get(_address(tensor), (None, CPU))[1]

    def place(self, tensor: Tensor, device: torch.device) -> None:
        """Set the pretended device of a tensor and of all its views."""
        storage = tensor.untyped_storage()
        self._devices[storage._cdata] = StorageWeakRef(storage), device

    def common_device(self, operation: Any, tensors: Sequence[Tensor]) -> torch.device:
        """Return the device of the inputs of an operation; raise RuntimeError if they differ."""
        devices = [self.device_of(tensor) for tensor in tensors]
        if operation in _MOVE:
            return devices[0]
        # A number on the CPU goes with tensors on any device.
        fixed = {
            device
            for tensor, device in zip(tensors, devices, strict=True)
            if device != CPU or tensor.dim()
        }
        if len(fixed) > 1:
            self.refused.append(f'{operation}: {sorted(map(str, devices))}')
            raise RuntimeError(f'tensors on several devices: {self.refused[-1]}')
        device = next(iter(fixed), self.default)
        self.used[device] += 1
        return device


class _Operations(TorchDispatchMode):
    """Check the devices of the inputs of every operation, and place its results."""

    def __init__(self, placement: Placement) -> None:
        super().__init__()
        self._placement = placement

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        with torch._C.DisableTorchFunction():
            kwargs = kwargs or {}
            inputs = [*_tensors(args), *_tensors(kwargs.values())]
            device = self._placement.common_device(func, self._tied(func, args, inputs))
            known = set(map(_address, inputs))
            result = func(*args, **kwargs)
            for tensor in _tensors([result]):
                if _address(tensor) not in known:
                    self._placement.place(tensor, device)
        return result

    def _tied(self, func: Any, args: Sequence[Any], inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the inputs that have to be on one device."""
        if func not in _INDEX:
            return inputs
        indices = [index for index in _tensors(args[1]) if self._placement.device_of(index) != CPU]
        return [args[0], *indices, *_tensors(args[2:])]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Do without the import of PyTorch's compiler, which takes seconds."""
        return False


class _Functions(TorchFunctionMode):
    """Answer questions about devices, and follow requests for one."""

    def __init__(self, placement: Placement) -> None:
        super().__init__()
        self._placement = placement

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func not in _SPECIAL and kwargs.get('device') is None:
            return func(*args, **kwargs)
        if func == _GET_DEVICE:
            return self._placement.device_of(args[0])
        if func == _GET_IS_CUDA:
            return self._placement.device_of(args[0]).type == 'cuda'
        if func is Tensor.numpy and self._placement.device_of(args[0]) != CPU:
            raise TypeError('a tensor on a GPU is no NumPy array; copy it to the CPU first')
        if func in _BACKWARD:
            return self._differentiate(func, args, kwargs)
        target = self._target(func, args, kwargs)
        if 'device' in kwargs:
            kwargs['device'] = CPU
        result = func(*[CPU if _is_device(arg) else arg for arg in args], **kwargs)
        if target is not None and self._placement.device_of(result) != target:
            if _address(result) in map(_address, _tensors(args)):
                result = result.clone()
            self._placement.place(result, target)
        return result

    def _differentiate(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Compute gradients; those that PyTorch fills with zeros are on the device of the rest."""
        self._placement.default = self._placement.device_of(next(_tensors(args)))
        try:
            return func(*args, **kwargs)
        finally:
            self._placement.default = CPU

    def _target(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> torch.device | None:
        """Return the device that a call asks for, None if it asks for none."""
        if func is Tensor.cpu:
            return CPU
        if kwargs.get('device') is not None:
            return _numbered(kwargs['device'])
        if func in _NEW:
            return self._placement.device_of(args[0])
        if func is Tensor.to:
            for arg in args[1:]:
                if isinstance(arg, Tensor):
                    return self._placement.device_of(arg)
                if _is_device(arg):
                    return _numbered(arg)
        return None


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among arguments, and within lists of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _address(tensor: Tensor) -> int:
    """Return the address of the storage of a tensor."""
    return tensor.untyped_storage()._cdata


def _is_device(arg: Any) -> bool:
    return isinstance(arg, (str, torch.device))


def _numbered(device: str | torch.device) -> torch.device:
    """Return a device with its number; ``cuda`` means the first one."""
    device = torch.device(device)
    return torch.device('cuda', device.index or 0) if device.type == 'cuda' else device


@contextmanager
def pretended_gpu() -> Iterator[Placement]:
    """Let tensors be made on ``cuda`` devices that do not exist.

    Yields
    ------
    Placement
        The pretended devices.
    """
    placement = Placement()
    with (
        mock.patch.multiple(torch.cuda, get_rng_state=mock.DEFAULT, set_rng_state=mock.DEFAULT),
        _Operations(placement),
        _Functions(placement),
    ):
        yield placement
