"""A pretended GPU: tensors that say they lie on device "pretended:0", hold real numbers, and refuse what CUDA refuses.

PyTorch leaves one device to others, PrivateUse1; here it is a Python class around a tensor of the CPU. Whatever is
computed with it is computed on the CPU, once the rules of CUDA have been asked:

- a tensor of the CPU beside one of the device is refused, unless it has no dimension and the operation goes element by
  element; matrix products, look-ups, gathering and joining refuse that one as well;
- an index of the device into a table of the CPU is refused, the other way round it is moved;
- what would write numbers of the device into a tensor of the CPU is refused, but for a copy;
- numpy gets nothing; fused kernels get no pointer to the CPU; random numbers of the device no generator of the CPU;
- float16 gradients of float16 weights are not unscaled (torch's own rule, in its `GradScaler`).

`install()` is for the whole process and cannot be undone: only for a process of its own.
"""

import functools
import types
import warnings

import torch
from torch.utils._python_dispatch import _disable_current_modes

NAME = "pretended"
DEVICE = "pretended:0"
CPU = torch.device("cpu")
aten = torch.ops.aten

NO_NUMPY = (
    f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
)


def _overloads(*names: str) -> set:
    return {getattr(aten, name) for name in names if hasattr(aten, name)}


COPIES = _overloads("copy_", "_to_copy", "_copy_from", "_copy_from_and_resize", "lift_fresh", "is_same_size", "set_")
INDEXING = _overloads("index", "index_put", "index_put_", "_unsafe_index", "_unsafe_index_put", "_index_put_impl_")
# These want everything on one device, a number without dimensions too.
STRICT = _overloads(
    *"mm bmm addmm addmm_ baddbmm mv dot cat stack index_select index_add index_add_ index_copy index_copy_ take".split(),
    *"gather scatter scatter_ scatter_add scatter_add_ embedding masked_select masked_scatter bucketize".split(),
    *"searchsorted equal nll_loss_forward native_layer_norm convolution".split(),
)


class DeviceTensor(torch.Tensor):
    """A tensor of the pretended device; `numbers` holds its numbers, on the CPU."""

    @staticmethod
    def __new__(cls, real: torch.Tensor, requires_grad: bool = False):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=torch.device(NAME, 0),
            requires_grad=requires_grad,
        )
        tensor.numbers = real
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation, kinds, args=(), kwargs=None):
        return _compute(operation, args, kwargs or {})

    def __repr__(self, *args, **kwargs):
        return f"{_real(self.detach())!r} on {DEVICE}"

    def __format__(self, spec):
        return format(self.item(), spec) if self.dim() == 0 else repr(self)

    def numpy(self, *args, **kwargs):
        raise TypeError(NO_NUMPY)

    def __array__(self, *args, **kwargs):
        raise TypeError(NO_NUMPY)

    def tolist(self):
        return _real(self.detach()).tolist()

    def untyped_storage(self):
        return _real(self).untyped_storage()

    def data_ptr(self):
        return _real(self).data_ptr()

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            copy = DeviceTensor(self.numbers.detach().clone())
            trains = self.requires_grad
            memo[id(self)] = torch.nn.Parameter(copy, trains) if isinstance(self, torch.nn.Parameter) else copy
        return memo[id(self)]

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, value):
        if not isinstance(value, DeviceTensor):
            raise RuntimeError(f"a tensor of the CPU cannot become the data of one on {DEVICE}")
        if value.shape == self.shape and value.dtype == self.dtype:
            self.numbers = value.numbers
        else:
            raise RuntimeError(f"other data of shape {tuple(value.shape)}: make a new parameter")


def _real(value):
    return value.numbers if isinstance(value, DeviceTensor) else value


def _on_cpu(value):
    """The argument as the CPU takes it."""
    if isinstance(value, DeviceTensor):
        return value.numbers
    if isinstance(value, torch.device):
        return CPU if value.type == NAME else value
    if isinstance(value, list | tuple):
        return type(value)(map(_on_cpu, value)) if type(value) in (list, tuple) else value
    return value


def _on_device(value):
    """A result as the device gives it."""
    if isinstance(value, torch.Tensor):
        return value if isinstance(value, DeviceTensor) else DeviceTensor(value)
    return type(value)(map(_on_device, value)) if type(value) in (list, tuple) else value


def _tensors(args, kwargs) -> list[torch.Tensor]:
    found = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += [one for one in value if isinstance(one, torch.Tensor)]
    return found


@functools.cache
def _written(operation) -> tuple[tuple[int, str], ...]:
    """Place and name of each argument that the operation writes into."""
    arguments = enumerate(operation._schema.arguments)
    return tuple((i, one.name) for i, one in arguments if one.alias_info is not None and one.alias_info.is_write)


# --- the rules ---------------------------------------------------------------------------------------------------------


def _refuse(operation, args, kwargs, tensors) -> None:
    """Raises RuntimeError where CUDA would."""
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type == "cpu":
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found 'cpu' (in {operation})")
    packet = operation._overloadpacket
    if packet in COPIES:
        return
    on_cpu = [one for one in tensors if not isinstance(one, DeviceTensor) and one.device.type == "cpu"]
    if not on_cpu:
        return
    if packet in INDEXING:
        _refuse_indexing(operation, *args)
        return
    name = operation._schema.name
    if "_fused_" in name or "_amp_" in name:
        raise RuntimeError(f"an illegal memory access was encountered: {name} was given a pointer to the CPU")
    if packet in STRICT or any(one.dim() > 0 for one in on_cpu):
        shapes = [tuple(one.shape) for one in on_cpu][:3]
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {DEVICE} and cpu! "
            f"(in {operation}, on the CPU are shapes {shapes})"
        )
    for place, argument in _written(operation):
        into = args[place] if place < len(args) else kwargs.get(argument)
        if isinstance(into, torch.Tensor) and not isinstance(into, DeviceTensor):
            raise RuntimeError(f"{operation} would write numbers of {DEVICE} into a tensor on the CPU")


def _refuse_indexing(operation, table, indices, values=None, *_) -> None:
    if isinstance(table, DeviceTensor):  # indices on the CPU are moved, and so is a single number
        if isinstance(values, torch.Tensor) and not isinstance(values, DeviceTensor) and values.dim() > 0:
            raise RuntimeError(f"expected all values to be on {DEVICE}, but found cpu (in {operation})")
        return
    if any(isinstance(one, DeviceTensor) for one in indices):
        raise RuntimeError(
            f"indices should be either on cpu or on the same device as the indexed tensor (cpu) (in {operation})"
        )
    raise RuntimeError(f"expected all values to be on cpu, but found {DEVICE} (in {operation})")


PRODUCTS = _overloads("mm", "bmm", "addmm", "baddbmm")


def _in_float32(operation, args, kwargs):
    """A product of float16 matrices, summed in float32 as a GPU does, and in a hundredth of the CPU's own time."""
    wide = [one.float() if isinstance(one, torch.Tensor) and one.dtype == torch.float16 else one for one in args]
    return operation(*wide, **kwargs).half()


# --- what is computed --------------------------------------------------------------------------------------------------


def _compute(operation, args, kwargs):
    tensors = _tensors(args, kwargs)
    _refuse(operation, args, kwargs, tensors)
    packet = operation._overloadpacket
    if packet in (aten.copy_, aten._copy_from):
        into, source = args[:2] if packet is aten.copy_ else (args[1], args[0])
        _real(into).copy_(_real(source))
        return into
    device = kwargs.get("device")
    to_device = torch.device(device).type == NAME if device is not None else True
    plain = {name: _on_cpu(value) for name, value in kwargs.items()}
    plain.pop("generator", None)
    if "non_blocking" in plain:
        plain["non_blocking"] = False
    with _disable_current_modes():
        if packet in PRODUCTS and args[0].dtype == torch.float16 and "out" not in plain:
            result = _in_float32(operation, list(map(_on_cpu, args)), plain)
        else:
            result = operation(*map(_on_cpu, args), **plain)
    if written := _written(operation):  # what was written into comes back itself
        given = [args[place] if place < len(args) else kwargs.get(name) for place, name in written]
        returns = len(operation._schema.returns)
        if returns == 0:
            return None
        if returns == len(given):
            return given[0] if returns == 1 else tuple(given)
    return _on_device(result) if to_device else result


def _factories():
    """(name, operation) of each that makes a tensor out of none: `empty`, `randn`, `arange`, ..."""
    odd = ("sparse", "quantized", "cudnn", "mkldnn", "nested", "_make_dep_token", "from_file")
    for full in torch._C._dispatch_get_all_op_names():
        if not full.startswith("aten::") or any(word in full for word in odd):
            continue
        name, _, overload = full.removeprefix("aten::").partition(".")
        try:
            operation = getattr(getattr(aten, name), overload or "default")
        except (AttributeError, RuntimeError):
            continue
        schema = operation._schema
        kinds = [str(argument.type) for argument in schema.arguments]
        makes_one = len(schema.returns) == 1 and "Tensor" in str(schema.returns[0].type)
        if (
            makes_one
            and "device" in {a.name for a in schema.arguments}
            and not any("Tensor" in kind for kind in kinds)
        ):
            yield full.removeprefix("aten::"), operation


def _making(operation):
    def make(*args, **kwargs):
        _refuse(operation, args, kwargs, [])
        kwargs = {k: v for k, v in kwargs.items() if k not in ("pin_memory", "generator")} | {"device": CPU}
        return DeviceTensor(operation(*args, **kwargs))

    return make


def _module() -> types.ModuleType:
    """torch.pretended: what torch asks of a device's module. `waited` counts the calls of `synchronize`."""
    module = types.ModuleType(f"torch.{NAME}")
    module.waited = 0

    def synchronize(device=None):
        module.waited += 1

    module.synchronize = synchronize
    module.is_available = module.is_initialized = lambda: True
    module.device_count, module.current_device = lambda: 1, lambda: 0
    module._is_in_bad_fork = lambda: False
    module.set_device = module.manual_seed = module.manual_seed_all = lambda number: None
    module.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
    module.get_rng_state = lambda device=None: torch.get_rng_state()
    module.set_rng_state = lambda state, device=None: torch.set_rng_state(_real(state))
    return module


def _attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """Attention that keeps for its backward pass what CUDA's fused kernels keep: q, k, v, the result, a sum a row."""
    if enable_gqa:
        k, v = (one.repeat_interleave(q.size(-3) // one.size(-3), -3) for one in (k, v))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        hidden = torch.zeros(attn_mask.shape, dtype=q.dtype, device=q.device)
        attn_mask = hidden.masked_fill(~attn_mask, float("-inf"))
    if attn_mask is not None:
        attn_mask = attn_mask.to(q.dtype).expand(q.size(0), q.size(1), q.size(2), k.size(2))
    flash = aten._scaled_dot_product_flash_attention_for_cpu
    return flash(q, k, v, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


_installed = []


def install() -> torch.device:
    """Put the device into this process, for good, and return it."""
    if not _installed:
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        torch.utils.backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_module())
        library = torch.library.Library("aten", "IMPL")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it stands in the place of a kernel
            for name, operation in _factories():
                library.impl(name, _making(operation), "PrivateUse1")
            library.impl(
                "_copy_from",
                lambda source, into, non_blocking=False: _compute(aten._copy_from.default, (source, into), {}),
                "PrivateUse1",
            )
        fused = torch.nn.functional.scaled_dot_product_attention
        torch.nn.functional.scaled_dot_product_attention = lambda q, *args, **kwargs: (
            _attention(q, *args, **kwargs) if isinstance(q, DeviceTensor) else fused(q, *args, **kwargs)
        )
        _installed.append(library)
    return torch.device(NAME, 0)
