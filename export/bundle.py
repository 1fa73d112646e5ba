"""From a checkpoint to a bundle: graphs, one weight file a precision, and the proof they agree."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx
from rich.console import Console
from rich.progress import Progress

from calibration.crops import CalibrationCrop
from engines.base import Engine
from engines.eager import EagerBackend
from engines.table import open_engine
from export.accuracy import (
    check_accuracy,
    dimension_table,
    embed_labelled,
    measure_accuracy,
    training_embeddings,
)
from export.cost import count_cost, measure_graph
from export.exported import ExportReport
from export.gate import SYNTHETIC_COUNT, SYNTHETIC_COUNT_INT8, collect_crops, examine
from export.half import to_half
from export.int8 import (
    RECORD_NAME,
    Quantized,
    format_record,
    make_int8,
)
from export.int8_crops import calibration_crops
from export.int8_gate import examine_graphs
from export.int8_speed import TimedPoint, time_points
from export.options import ExportOptions
from export.projection import learn_projections
from export.report import ReportFacts, write_report
from export.simulate import simulate
from export.to_onnx import share_weights, write_files
from export.work import (
    FP16,
    FP32,
    INT8,
    INT8_FP16,
    Work,
    begin,
    draft_manifest,
    file_name,
    make_graphs,
    make_half,
    modalities_of,
    rounded,
)
from mip_edge.artifact import (
    Accuracy,
    Bundle,
    Graph,
    Manifest,
    Parity,
    Precision,
    open_bundle,
    seal,
    write_bundle,
)
from mip_edge.card.model_card import CARD_NAME, card_of
from mip_edge.embedder import Embedder
from mip_edge.errors import ParityError
from mip_edge.spec import Modality

_FILE_TOLERANCE = 0.01
"""Of cosine, between an INT8 graph in memory (simulated, if it holds float16) and its file."""


def export_bundle(
    checkpoint_path: str | Path,
    output: str | Path,
    options: ExportOptions = ExportOptions(),  # noqa: B008  it is frozen
    *,
    overwrite: bool = False,
) -> ExportReport:
    """Export a checkpoint into the folder `output`, every graph checked against PyTorch.

    The model card beside the checkpoint (<name>.md) travels in the bundle as card.md; where there
    is none, one is made.
    Raises: ParityError if a graph is further from the checkpoint than the options allow,
    OutputError if `output` cannot be written, OptionError or DatasetError for what was asked;
    in every case nothing stands there that was not there before.
    """
    work = begin(Path(checkpoint_path), Path(output), options)
    card = card_of(work.path, work.model, work.record)
    crops = calibration_crops(work) if options.int8 else []
    steps = 4 + options.fp16 + options.int8 + options.time_int8
    with write_bundle(output, overwrite=overwrite) as draft, _steps(steps) as begin_step:
        begin_step("embed the data set")
        _learn_projection(work)
        begin_step("embed the crops of the comparison")
        _prepare_examinations(work)
        begin_step("make the graphs, and compare the exported module")
        precisions = {FP32: _write_graphs(work, draft, make_graphs(work, FP32), FP32)}
        quantized = None
        if options.fp16 or options.int8:
            quantized = _make_lower(work, draft, precisions, crops, begin_step)
        manifest = draft_manifest(work, precisions)
        seal(draft, manifest)
        begin_step("compare every file")
        manifest = replace(manifest, precisions=_examine_files(work, draft, manifest))
        timed: tuple[TimedPoint, ...] = ()
        if options.time_int8 and quantized is not None:
            begin_step("time INT8 graphs")
            timed = tuple(time_points(work, quantized))
        facts = ReportFacts(
            work.module, work.sizes, work.dimensions, _drawn(work), work.accuracy, quantized
        )
        write_report(draft, manifest, facts)
        (draft / CARD_NAME).write_bytes(card)
        sealed = seal(draft, manifest)
    return ExportReport(
        path=Path(output),
        manifest=sealed,
        module=work.module,
        sizes=work.sizes,
        accuracy=work.accuracy,
        dimensions=work.dimensions,
        sensitivity=() if quantized is None else quantized.sensitivity,
        timed=timed,
    )


@contextmanager
def _steps(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal that names what an export is at; the name of a step begins it."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("export", total=total, completed=-1)
        yield lambda name: bar.update(task, description=name, advance=1)


def _learn_projection(work: Work) -> None:
    """Embed what is labelled with PyTorch once; learn the projection on training crops."""
    if work.dataset is None:
        return
    with _torch_embedder(work) as embedder:
        if work.options.dimensions:
            training = training_embeddings(embedder, work.dataset)
            projections = learn_projections(
                training.embeddings,
                work.options.dimensions,
                whiten=work.options.whiten,
                identities=training.identities,
            )
            work.projection = projections[0]
        labelled = embed_labelled(embedder, work.dataset)
    if work.projection is None:
        work.accuracy = measure_accuracy(labelled, work.dataset, work.options.dataset)
    else:
        kind = work.options.dataset
        work.dimensions = dimension_table(labelled, work.dataset, kind, projections)
        work.accuracy = dict(work.dimensions[1].accuracy)
        # Embeddings that went through a projection never meet those that did not.
        joined = f"{work.specs[Modality.VISIBLE].fingerprint}{work.projection.digest()}"
        fingerprint = hashlib.sha256(joined.encode()).hexdigest()
        work.specs = {
            modality: replace(spec, dimension=work.projection.dimension, fingerprint=fingerprint)
            for modality, spec in work.specs.items()
        }


def _torch_embedder(work: Work) -> Embedder:
    engines = {}
    for modality in Modality:
        fingerprint = work.specs[modality].fingerprint
        backend = EagerBackend(
            work.model, modality, camera=work.cameras[modality], fingerprint=fingerprint
        )
        engines[modality] = Engine(backend, name="torch", modality=modality)
    return Embedder(work.specs, engines=engines)


def _prepare_examinations(work: Work) -> None:
    drawn = SYNTHETIC_COUNT_INT8 if work.options.int8 else SYNTHETIC_COUNT
    for modality, spec in work.specs.items():
        crops = collect_crops(work.options.crops, work.dataset, modality, drawn=drawn)
        work.examinations[modality] = examine(
            work.model, spec, crops, work.cameras[modality], work.projection
        )


def _make_lower(
    work: Work,
    draft: Path,
    precisions: dict[str, Precision],
    crops: Sequence[CalibrationCrop],
    begin_step: Callable[[str], None],
) -> Quantized | None:
    """The graphs below float32, all made of one float32 form; what INT8 found, if it was asked."""
    graphs = make_graphs(work, FP16)
    kept: tuple[str, ...] = ()
    if work.options.fp16:
        begin_step("make float16 graphs")
        half, kept = make_half(work, graphs)
        written = _write_graphs(work, draft, half, FP16)
        precisions[FP16] = replace(written, kept_float32=kept)
    if not work.options.int8:
        return None
    begin_step("find INT8 scales, and rate every map")
    quantized = make_int8(work, graphs, crops)
    (draft / RECORD_NAME).write_text(format_record(work, quantized), encoding="utf-8")
    if work.options.fp16:
        mixed = {name: to_half(graph, kept) for name, graph in quantized.graphs.items()}
        simulated = {name: simulate(graph) for name, graph in mixed.items()}
        try:
            work.examined[INT8_FP16] = examine_graphs(work, simulated, INT8_FP16)
        except ParityError as error:
            raise ParityError(
                f"{error}; the {INT8} graphs pass. Leave --fp16 out, or try another "
                "--calibration-method; nothing was written"
            ) from error
        written = _write_graphs(work, draft, mixed, INT8_FP16)
        precisions[INT8_FP16] = replace(written, kept_float32=(*kept, *quantized.kept))
    work.examined[INT8] = quantized.examined
    written = _write_graphs(work, draft, quantized.graphs, INT8)
    precisions[INT8] = replace(written, kept_float32=quantized.kept)
    return quantized


def _write_graphs(
    work: Work, draft: Path, graphs: Mapping[str, onnx.ModelProto], precision: str
) -> Precision:
    """Graphs of one precision and their one weight file; costs are counted, parity is yet open."""
    held = {}
    for name, graph in graphs.items():
        file, cost = file_name(name, precision), count_cost(graph)
        work.sizes[file] = measure_graph(graph)
        for modality in modalities_of(work, name):
            held[modality] = Graph(file, cost=cost)
    weights = "weights.bin" if precision == FP32 else f"weights.{precision}.bin"
    files = {file_name(name, precision): graph for name, graph in graphs.items()}
    write_files(draft, share_weights(files, weights))
    return Precision(held)


def _examine_files(work: Work, draft: Path, manifest: Manifest) -> dict[str, Precision]:
    """Run every file of the draft; the first one below a bar is the end."""
    bundle = open_bundle(draft)
    return {
        name: replace(
            precision,
            graphs={
                modality: replace(graph, parity=_examine_file(work, bundle, name, modality))
                for modality, graph in precision.graphs.items()
            },
            accuracy=_score(work, bundle, name),
        )
        for name, precision in manifest.precisions.items()
    }


def _examine_file(work: Work, bundle: Bundle, precision: str, modality: Modality) -> Parity:
    """Parity of the file; of one with float16 in it that of its simulation, which rounds more."""
    examination = work.examinations[modality]
    with open_engine(bundle, modality=modality, precision=precision) as engine:
        candidate = engine.embed(examination.batch)
    least, reason = _least_cosine(work, precision, modality)
    found = examination.check(
        candidate, bundle.graph_path(modality, precision).name, at_least=least, flag=reason
    )
    if precision == FP16:
        return work.simulated[modality]
    if precision in work.examined:
        return work.examined[precision].parity[modality]
    return rounded(found)


def _least_cosine(work: Work, precision: str, modality: Modality) -> tuple[float, str]:
    """Of one crop, and its flag or reason: what passed in memory must be in the file."""
    if precision == FP32:
        return work.options.min_cosine, "--min-cosine"
    if precision == FP16:
        return work.options.min_cosine_fp16, "--min-cosine-fp16"
    found = work.examined[precision].parity[modality].smallest_cosine
    reason = f"{_FILE_TOLERANCE} below what the same graph gave in memory"
    return round(found - _FILE_TOLERANCE, 6), reason


def _score(work: Work, bundle: Bundle, precision: str) -> Mapping[str, Accuracy] | None:
    if precision in work.examined:
        return work.examined[precision].accuracy
    if work.accuracy is None or work.dataset is None:
        return None
    with Embedder.open(bundle, precision=precision) as embedder:
        embedded = embed_labelled(embedder, work.dataset)
    found = measure_accuracy(embedded, work.dataset, work.options.dataset)
    graph, drop = f"the {precision} export", work.options.max_drop_float
    check_accuracy(work.accuracy, found, max_drop=drop, graph=graph, flag="--max-drop-float")
    return found


def _drawn(work: Work) -> bool:
    """Whether the crops of the parity check were drawn."""
    return work.options.crops is None and work.dataset is None
