"""The plan of one graph of a bundle, read from the engine cache or built into it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from engines.build_trt import (
    MODULES,
    RTX,
    BuildOptions,
    build_engine,
    check_options,
    library_version,
)
from engines.cache import EngineCache, EngineKey
from mip_edge.artifact import Bundle
from mip_edge.errors import EngineError
from mip_edge.spec import Modality

RUNTIMES = {RTX: "tensorrt-rtx", "tensorrt": "tensorrt"}
"""Module to the name of its engine."""


def read_plan(
    bundle: Bundle,
    modality: Modality,
    precision: str,
    options: BuildOptions,
    *,
    cache: EngineCache,
    device: str = "",
    driver: str = "",
    build: Callable[[Path, BuildOptions], bytes] = build_engine,
    overwrite: bool = False,
) -> bytes:
    """The plan of one graph, from `cache` if it is there and not to be built anew (`overwrite`).

    `device` is the GPU in words and `driver` its version; both are left out for TensorRT-RTX,
    whose plan depends on `options.capabilities` alone. `build` makes what is not there.
    Raises: EngineError if the library refuses; BundleError if the bundle lacks the graph.
    """
    graph = bundle.graph_path(modality, precision)
    key = plan_key(bundle, graph, precision, options, device=device, driver=driver)
    if options.module != RTX and options.timing_cache is None:
        options = replace(options, timing_cache=cache.timing_path(key))
    what, spec = str(graph.resolve()), plan_spec(bundle, modality)
    if not overwrite:
        return cache.get(key, lambda: build(graph, options), what=what, spec=spec)
    plan = build(graph, options)  # what is there stays until there is another
    cache.put(key, plan, what=what, spec=spec)
    return plan


def plan_key(
    bundle: Bundle,
    graph: Path,
    precision: str,
    options: BuildOptions,
    *,
    device: str = "",
    driver: str = "",
) -> EngineKey:
    """All that a plan depends on.

    Raises: EngineError if the library is not installed or refuses an option, or if `tensorrt` gets
    no `device`.
    """
    version = library_version(options.module)
    check_options(options)
    if options.module == RTX:
        # The kernels are made on the device when it opens the plan, whatever its driver is.
        device, driver = f"compute capability {', '.join(options.capabilities)}", ""
    elif not device:
        raise EngineError(f"{MODULES[options.module][0]}: no device is named; expected its GPU")
    if options.hardware_compatible:
        device = "any GPU from Ampere on"
    if options.version_compatible:
        version = f"{version.partition('.')[0]}.x"
    smallest, best, largest = options.batches
    return EngineKey(
        graph_digest=graph_digest(bundle, graph),
        runtime=RUNTIMES[options.module],
        version=version,
        device=device,
        driver=driver,
        precision=precision,
        shapes=f"{smallest} to {largest} crops, best at {best}",
        options=_words(options),
    )


def graph_digest(bundle: Bundle, graph: Path) -> str:
    """SHA-256 over the hashes, as the manifest tells them, of an ONNX file and its weight files."""
    content = graph.read_bytes()
    files = bundle.manifest.files
    # Locations of external weights stand in the file as they are: no parser is needed for them.
    weights = [name for name in files if name.endswith(".bin") and name.encode() in content]
    text = "".join(
        f"{files[name].sha256} {files[name].bytes}\n" for name in [graph.name, *sorted(weights)]
    )
    return hashlib.sha256(text.encode()).hexdigest()


def plan_spec(bundle: Bundle, modality: Modality) -> dict[str, object]:
    """What the graph of a plan takes and gives, to lie beside it."""
    specs = bundle.specs_with(modality)
    promise = bundle.manifest.specs[modality].promise(unified=bundle.unified)
    return {"fingerprint": bundle.manifest.fingerprint, "for": [m.value for m in specs], **promise}


def _words(options: BuildOptions) -> str:
    chosen = []
    if options.workspace_bytes is not None:
        chosen.append(f"workspace {options.workspace_bytes} bytes")
    if options.hardware_compatible:
        chosen.append("hardware-compatible")
    if options.version_compatible:
        chosen.append("version-compatible")
    return ", ".join(chosen)
