"""The gate of INT8: accuracy on labelled crops, else the order and the angle of embeddings."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from engines.parity import compare
from export.accuracy import check_accuracy, embed_labelled, measure_accuracy
from export.in_memory import open_graphs
from export.work import DECIMALS, Examined, Work, modalities_of, rounded
from mip_edge.artifact import Parity
from mip_edge.embedder import Embedder
from mip_edge.errors import ParityError

MIN_TOP1 = 0.99
"""Share of crops whose nearest other crop is the same as in float32."""
MIN_MEAN_COSINE = 0.99


def examine_graphs(work: Work, graphs: Mapping[str, onnx.ModelProto], precision: str) -> Examined:
    """The gate of a precision for graphs in memory: accuracy where crops are labelled, else the
    order and the angle of embeddings.

    Raises: ParityError naming graph, figure and bar.
    """
    taken = {name: modalities_of(work, name) for name in graphs}
    engines = open_graphs(graphs, taken, work.specs)
    with Embedder(work.specs, engines=engines) as embedder:
        parity = {
            modality: rounded(
                compare(examination.reference, engines[modality].embed(examination.batch))
            )
            for modality, examination in work.examinations.items()
        }
        if work.accuracy is None or work.dataset is None:
            for modality, one in parity.items():
                _check_order(one, f"the {precision} graph of {modality.value} crops")
            return Examined(parity, None)
        embedded = embed_labelled(embedder, work.dataset)
    accuracy = measure_accuracy(embedded, work.dataset, work.options.dataset)
    check_accuracy(
        work.accuracy, accuracy, max_drop=work.options.max_drop, graph=f"the {precision} export"
    )
    return Examined(parity, accuracy)


def _check_order(parity: Parity, what: str) -> None:
    """The bars where nobody labelled the crops; one crop may always have another neighbour."""
    # Rounded as the figure is: 35 of 36 is one crop.
    one_crop = round(1 - 1 / parity.crops, DECIMALS)
    for name, found, least in (
        ("same top-1", parity.top1_agreement, min(MIN_TOP1, one_crop)),
        ("mean cosine", parity.mean_cosine, MIN_MEAN_COSINE),
    ):
        if not found >= least:
            raise ParityError(
                f"{what} has {name} {found:.4f} with float32 on {parity.crops} crops, expected at "
                f"least {least:.4f} (no labelled --data was given)"
            )
