"""Ingot's plugins inside TensorRT: an IPluginV3 and its creator in Python, made from a declaration.

`trt` is the runtime package, tensorrt or tensorrt_rtx. TensorRT logs what Python raises in a plugin and goes on, in one
place even to a plan without fields: `PluginHost.problem` keeps the first such text, for whoever builds or loads to ask.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np

from ingot.backends.tensorrt.plugin.fields import FIELD, INPUTS, TRT_DTYPES, Fields, read_call
from ingot.backends.tensorrt.plugin.kernels import Device, Kernels, read_kernels
from ingot.errors import EngineError, FormatError
from ingot.file.header import Member
from ingot.plugins.declaration import DOMAIN, Choice, Declaration, DoesNotFit, Given, Size
from ingot.plugins.declared import DECLARED

_AGAIN = "compile the model again with this Ingot, or load it with the one that made it"

_DTYPES = {trt_name: name for name, trt_name in TRT_DTYPES.items()}

P = ParamSpec("P")
R = TypeVar("R")


class PluginHost:
    """The plugins of one engine, registered with TensorRT; plugins keep it alive.

    problem   the first thing that went wrong in a plugin, which TensorRT does not pass on; None: nothing
    kernels   by the plugin's name
    """

    def __init__(self, trt: Any) -> None:
        self.trt = trt
        self.problem: str | None = None
        self.kernels: dict[str, Kernels] = {}


def check(entries: Sequence[Any], members: Mapping[str, Member]) -> None:
    """Holds the header's "plugins" to what this Ingot has and to the members of the file, before TensorRT is imported.

    Raises EngineError as `register` does, FormatError for a plugin that is listed twice.
    """
    names = set()
    for entry in entries:
        declaration = _declaration(entry)
        if declaration.name in names:
            raise FormatError(f"the header lists the plugin {declaration.name} twice")
        names.add(declaration.name)
        with _telling(declaration):
            for kernel in read_kernels(entry):
                kernel.check(members)


def register(
    trt: Any,
    entries: Sequence[Mapping[str, Any]],
    read: Callable[[str], bytes] | None = None,
    device: Device | None = None,
) -> PluginHost:
    """Registers the plugins that `entries` list, the header's "plugins", for what this thread builds or loads next; who
    does keeps the host meanwhile.

    `read` gives the bytes of a member of the engine file, `device` is the GPU that is to run it; a build needs neither.
    Raises EngineError for a plugin that this Ingot lacks or has in another version, for entries that are wrong, and
    where kernels for the GPU are missing.
    """
    host = PluginHost(trt)
    for entry in entries:
        declaration = _declaration(entry)
        with _telling(declaration):
            host.kernels[declaration.name] = Kernels(read_kernels(entry), read, device)
        _creator(trt, declaration.name).serve(host)
    return host


@contextlib.contextmanager
def _telling(declaration: Declaration) -> Iterator[None]:
    try:
        yield
    except DoesNotFit as error:
        raise EngineError(f"plugin {declaration.name}: {error}", fix=_AGAIN) from None


def _declaration(entry: Any) -> Declaration:
    if not isinstance(entry, Mapping):
        raise FormatError(f"the header lists {entry!r:.80} as a plugin, which must be an object")
    name = entry.get("name")
    if not isinstance(name, str) or name not in DECLARED:
        known = ", ".join(DECLARED)
        raise EngineError(f"the engine has a plugin {name!r:.60}, which this Ingot lacks; it has {known}", fix=_AGAIN)
    declaration = DECLARED[name]
    if entry.get("version") != declaration.version:
        raise EngineError(
            f"the engine has the plugin {name} in version {entry.get('version')!r:.20}, this Ingot in version "
            f"{declaration.version}",
            fix=_AGAIN,
        )
    return declaration


@functools.cache
def _creator(trt: Any, name: str) -> _Creator:
    """The creator of one plugin, registered: TensorRT takes one of a name in a process."""
    creator: _Creator = type("Creator", (_Creator, trt.IPluginCreatorV3One), {})(trt, DECLARED[name])
    if not trt.get_plugin_registry().register_creator(creator, DOMAIN):
        raise EngineError(f"TensorRT has another plugin {DOMAIN}::{name} already, and takes no second one")
    return creator


@functools.cache
def _plugin_class(trt: Any) -> type[_Plugin]:
    bases = (_Plugin, trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)
    return type("Plugin", bases, {})


def _told(method: Callable[P, R]) -> Callable[P, R]:
    """Keeps what `method` raises in the host, and raises it."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            plugin: Any = args[0]
            what = f"plugin {plugin.declaration.name}: {error}"
            if plugin.host is not None and plugin.host.problem is None:
                plugin.host.problem = what
            raise

    return call


class _Creator:
    """Makes a plugin from the parser's attributes, or from the fields of a plan. Its other base is
    trt.IPluginCreatorV3One, which looks methods and attributes up by these names."""

    def __init__(self, trt: Any, declaration: Declaration) -> None:
        trt.IPluginCreatorV3One.__init__(self)
        self.trt, self.declaration = trt, declaration
        self.name, self.plugin_version, self.plugin_namespace = declaration.name, str(declaration.version), DOMAIN
        self._local = threading.local()
        self._hosts: weakref.WeakSet[PluginHost] = weakref.WeakSet()
        kinds = trt.PluginFieldType
        described = [
            trt.PluginField(attribute.name, b"", kinds.CHAR if isinstance(attribute, Choice) else kinds.FLOAT32)
            for attribute in declaration.attributes
        ]
        self.field_names = trt.PluginFieldCollection([*described, trt.PluginField(INPUTS, b"", kinds.CHAR)])

    def serve(self, host: PluginHost) -> None:
        """What this thread makes next belongs to `host`, which its plugins and whoever registered it keep."""
        self._local.host = weakref.ref(host)
        self._hosts.add(host)

    @property
    def host(self) -> PluginHost | None:
        kept: weakref.ref[PluginHost] | None = getattr(self._local, "host", None)
        return None if kept is None else kept()

    @_told
    def create_plugin(self, name: str, collection: Any, phase: Any) -> _Plugin:
        given = {field.name: field.data for field in collection}
        if phase == self.trt.TensorRTPhase.RUNTIME:
            return self._from_plan(given)
        if self.host is None:
            raise DoesNotFit("the parser met it in a thread that registered no plugins")
        attributes, inputs = read_call(self.declaration, given)
        return _plugin_class(self.trt)(self.host, self.declaration, attributes, inputs, None)

    def _from_plan(self, given: Mapping[str, Any]) -> _Plugin:
        if set(given) != {FIELD}:
            raise DoesNotFit(f"the plan keeps {', '.join(given) or 'nothing'} of it, not {FIELD}")
        fields = Fields.from_bytes(bytes(given[FIELD]), self.declaration)
        name = self.declaration.name
        hosts = [host for host in (self.host, *self._hosts) if host is not None and name in host.kernels]
        host = next((host for host in hosts if host.kernels[name].digest == fields.kernels), None)
        if host is None:
            raise DoesNotFit(f"the plan was built with the kernels {fields.kernels[:12]}, the file brings other ones")
        host.kernels[name].check(fields.kernel())
        return _plugin_class(self.trt)(host, self.declaration, fields.attributes, fields.inputs(), fields)


class _Plugin:
    """One plugin layer. Its other bases are TensorRT's interfaces, which look methods and attributes up by these
    names."""

    def __init__(
        self,
        host: PluginHost,
        declaration: Declaration,
        attributes: Mapping[str, float | str],
        inputs: tuple[str, ...],
        fields: Fields | None,
    ) -> None:
        """`fields` are there once the tensors are known."""
        for base in type(self).__mro__[2:6]:
            base.__init__(self)  # type: ignore[misc]
        self.plugin_name, self.plugin_version, self.plugin_namespace = (
            declaration.name,
            str(declaration.version),
            DOMAIN,
        )
        self.num_outputs = len(declaration.outputs)
        self.host, self.declaration, self.attributes, self.inputs = host, declaration, attributes, inputs
        self.fields = fields
        self._bytes: Any = None

    def clone(self) -> _Plugin:
        return type(self)(self.host, self.declaration, self.attributes, self.inputs, self.fields)

    def attach_to_context(self, context: Any) -> _Plugin:
        return self.clone()

    def get_capability_interface(self, kind: Any) -> _Plugin:
        return self

    @_told
    def get_output_data_types(self, types: Sequence[Any]) -> list[Any]:
        return [types[0]] * self.num_outputs

    @_told
    def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Sequence[Any], builder: Any) -> list[Any]:
        named = self._named(inputs)
        self.declaration.fit({name: Given([_constant(size) for size in sizes], None) for name, sizes in named.items()})
        known: dict[str, Any] = {}
        for spec in self.declaration.inputs:
            if spec.name in named:
                for letter, size in zip(spec.dims, named[spec.name], strict=True):
                    if letter not in known or (_constant(size) is not None and _constant(known[letter]) is None):
                        known[letter] = size
        make = self.host.trt.DimsExprs
        return [make([known[letter] for letter in spec.dims]) for spec in self.declaration.outputs]

    @_told
    def supports_format_combination(self, position: int, tensors: Sequence[Any], input_count: int) -> bool:
        here, first = tensors[position].desc, tensors[0].desc
        linear: bool = here.format == self.host.trt.TensorFormat.LINEAR
        return linear and _dtype(here) in self.declaration.dtypes and here.type == first.type

    def configure_plugin(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """What does not fit is noted and not raised: an exception here leaves TensorRT's builder with a broken heap."""
        with contextlib.suppress(Exception):
            self.fields = self._configured([_given(tensor.desc) for tensor in inputs])

    @_told
    def _configured(self, given: list[Given]) -> Fields:
        dims = self.declaration.fit(self._named(given))
        sizes = {}
        for letter in self.declaration.fixed:
            size = dims[letter]
            if not isinstance(size, int):
                raise DoesNotFit(f"{letter} is not known when the engine is built; {self.declaration.name} needs it")
            sizes[letter] = size
        dtype = given[0].dtype
        assert dtype is not None
        optional = tuple(name for name in self.declaration.optional_inputs() if name in self.inputs)
        kernels = self.host.kernels[self.declaration.name]
        fields = Fields(self.declaration, dtype, sizes, optional, self.attributes, kernels.digest)
        kernels.check(fields.kernel())
        return fields

    @_told
    def get_fields_to_serialize(self) -> Any:
        if self.fields is None:
            raise DoesNotFit("TensorRT writes a plugin that was not configured")
        # TensorRT keeps the address.
        self._bytes = np.frombuffer(self.fields.to_bytes(), np.int8).copy()
        trt = self.host.trt
        return trt.PluginFieldCollection([trt.PluginField(FIELD, self._bytes, trt.PluginFieldType.CHAR)])

    @_told
    def on_shape_change(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        if self.fields is not None:
            self.fields.check([_given(tensor) for tensor in inputs])

    def set_tactic(self, tactic: int) -> None:
        """There is one tactic."""

    @_told
    def enqueue(
        self,
        input_tensors: Sequence[Any],
        output_tensors: Sequence[Any],
        inputs: Sequence[int],
        outputs: Sequence[int],
        workspace: int,
        stream: int,
    ) -> None:
        if self.fields is None:
            raise DoesNotFit("TensorRT runs a plugin that it has not configured")
        given = self._named([_given(tensor) for tensor in input_tensors])
        dims = self.declaration.fit(given)
        programs = math.prod(int(dims[letter] or 0) for letter in self.declaration.programs)
        places = self._named(list(inputs))
        pointers = [places.get(spec.name, 0) for spec in self.declaration.inputs] + list(outputs)
        numbers = [float(self.fields.attributes[attribute.name]) for attribute in self.declaration.reals()]
        kernels = self.host.kernels[self.declaration.name]
        kernels.launch(self.fields.kernel(), programs, pointers, numbers, stream)

    def _named(self, values: Sequence[Any]) -> dict[str, Any]:
        if len(values) != len(self.inputs):
            raise DoesNotFit(f"it has {len(values)} inputs; they were said to be {', '.join(self.inputs)}")
        return dict(zip(self.inputs, values, strict=True))


def _constant(expression: Any) -> int | None:
    return int(expression.get_constant_value()) if expression.is_constant() else None


def _dtype(description: Any) -> str | None:
    return _DTYPES.get(description.type.name, str(description.type.name).lower())


def _given(description: Any) -> Given:
    sizes: list[Size] = [size if size >= 0 else None for size in description.dims]
    return Given(sizes, _dtype(description))
