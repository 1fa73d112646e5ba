"""From a checkpoint to a bundle: graphs, one weight file a precision, and the proof they agree."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx
from rich.console import Console
from rich.progress import Progress

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
from export.gate import collect_crops, examine, run_module
from export.options import ExportOptions
from export.projection import learn_projections
from export.report import ReportFacts, write_report
from export.to_onnx import share_weights, write_files
from export.work import (
    FP16,
    FP32,
    Work,
    begin,
    draft_manifest,
    make_graph,
    make_half,
    make_module,
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
from mip_edge.spec import Modality


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
    with write_bundle(output, overwrite=overwrite) as draft, _steps(6) as begin_step:
        begin_step("embed the data set")
        _learn_projection(work)
        begin_step("embed the crops of the comparison")
        _prepare_examinations(work)
        begin_step("make the graphs, and compare the exported module")
        graphs = _make_graphs(work)
        begin_step("make float16 graphs")
        # Writing moves a graph's weights into the shared file, so what is made of it comes first.
        half, kept = make_half(work, graphs) if options.fp16 else ({}, ())
        begin_step("write the graphs")
        precisions = {FP32: _write_graphs(work, draft, graphs, FP32)}
        if half:
            written = _write_graphs(work, draft, half, FP16)
            precisions[FP16] = replace(written, kept_float32=kept)
        manifest = draft_manifest(work, precisions)
        seal(draft, manifest)
        begin_step("compare every file")
        manifest = replace(manifest, precisions=_examine_files(work, draft, manifest))
        facts = ReportFacts(work.module, work.sizes, work.dimensions, _drawn(work), work.accuracy)
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
    for modality, spec in work.specs.items():
        crops = collect_crops(work.options.crops, work.dataset, modality)
        work.examinations[modality] = examine(
            work.model, spec, crops, work.cameras[modality], work.projection
        )


def _make_graphs(work: Work) -> dict[str, onnx.ModelProto]:
    """The float32 graphs by file name, their weights inside; each module is compared first."""
    graphs = {}
    for name, taken in work.files.items():
        module = make_module(work, taken)
        for modality in taken:
            examination = work.examinations[modality]
            candidate = run_module(module, examination, modality.row if len(taken) > 1 else None)
            what = f"the exported module of {name}"
            work.module[modality] = rounded(
                examination.check(
                    candidate, what, at_least=work.options.min_cosine, flag="--min-cosine"
                )
            )
        graphs[name] = make_graph(work, taken, module)
    return graphs


def _write_graphs(
    work: Work, draft: Path, graphs: Mapping[str, onnx.ModelProto], precision: str
) -> Precision:
    """Graphs of one precision and their one weight file; costs are counted, parity is yet open."""
    held = {}
    for name, graph in graphs.items():
        cost = count_cost(graph)
        work.sizes[name] = measure_graph(graph)
        for modality in modalities_of(work, name):
            held[modality] = Graph(name, cost=cost)
    weights = "weights.bin" if precision == FP32 else f"weights.{precision}.bin"
    write_files(draft, share_weights(graphs, weights))
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
    """Parity of the file; of a float16 one that of its simulation, which rounds more."""
    examination = work.examinations[modality]
    half = precision == FP16
    with open_engine(bundle, modality=modality, precision=precision) as engine:
        candidate = engine.embed(examination.batch)
    found = examination.check(
        candidate,
        bundle.graph_path(modality, precision).name,
        at_least=work.options.min_cosine_fp16 if half else work.options.min_cosine,
        flag="--min-cosine-fp16" if half else "--min-cosine",
    )
    return work.simulated[modality] if half else rounded(found)


def _score(work: Work, bundle: Bundle, precision: str) -> dict[str, Accuracy] | None:
    if work.accuracy is None or work.dataset is None:
        return None
    with Embedder.open(bundle, precision=precision) as embedder:
        embedded = embed_labelled(embedder, work.dataset)
    found = measure_accuracy(embedded, work.dataset, work.options.dataset)
    graph = f"the {precision} export"
    check_accuracy(work.accuracy, found, max_drop=work.options.max_drop, graph=graph)
    return found


def _drawn(work: Work) -> bool:
    """Whether the crops of the parity check were drawn."""
    return work.options.crops is None and work.dataset is None
