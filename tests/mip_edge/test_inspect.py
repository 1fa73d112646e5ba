"""`mip-edge inspect`: the graphs counted anew, and held against what the manifest tells."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch", reason="the tiny bundle is exported with torch")

import onnx

from export.inspection import inspect_bundle
from mip_edge.artifact import Cost, Graph, open_bundle, seal
from mip_edge.cli import cli
from mip_edge.errors import BundleError
from mip_edge.spec import Modality

# The network of `tiny_checkpoint`: width, heads, patches, prompts of each kind, layers.
D, H, P, T, L = 48, 3, 5 * 2, 4, 2


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["inspect", *map(str, arguments)])


def told(bundle: Path, target: Path, change: Callable[[Cost], Cost | None]) -> Path:
    """A copy of a bundle whose manifest tells another cost of the visible graph, sealed anew."""
    shutil.copytree(bundle, target)
    manifest = open_bundle(target).manifest
    held = manifest.precisions["fp32"]
    graph = held.graphs[Modality.VISIBLE]
    assert graph.cost is not None
    graphs = {
        **held.graphs,
        Modality.VISIBLE: Graph(graph.file, graph.parity, change(graph.cost)),
    }
    seal(target, replace(manifest, precisions={"fp32": replace(held, graphs=graphs)}))
    return target


def test_a_bundle_costs_what_its_network_does_by_hand(tiny_bundle: Path) -> None:
    """mip.md's algebra on the tiny network, its queries learnable."""
    found = {one.modalities[0]: one for one in inspect_bundle(tiny_bundle).graphs}
    assert set(found) == set(Modality)
    for modality, one in found.items():
        assert one.precision == "fp32"
        assert one.file == f"{modality.value}.onnx"
        assert one.cost.parts["patches"] == P * D * modality.channels * 16 * 16
        rows, seen = 1 + P, T + 1 + P
        # q and proj of the rows, k and v also of the instance prompts, logits and means over the
        # modality prompts too, and the two maps of the MLP
        block = 2 * rows * D * D + 2 * seen * D * D + 2 * rows * (T + seen) * D + 8 * rows * D * D
        assert one.cost.parts["blocks"] == L * block
        # a logit of each head's query and each patch at full width, the means of patches and of
        # the queries themselves, then values by head, proj and MLP of the prompts
        generator = 2 * H * T * P * D + H * T * T * D + (1 + 1 + 8) * T * D * D
        assert one.cost.parts["ipg"] == L * generator
        assert sum(one.cost.parts.values()) == one.cost.macs


def test_weights_are_those_of_the_file(tiny_bundle: Path) -> None:
    for one in inspect_bundle(tiny_bundle).graphs:
        whole = onnx.load(str(tiny_bundle / one.file))
        arrays = [onnx.numpy_helper.to_array(tensor) for tensor in whole.graph.initializer]
        inline = [
            onnx.numpy_helper.to_array(node.attribute[0].t)
            for node in whole.graph.node
            if node.op_type == "Constant"
        ]
        assert one.cost.weight_bytes == sum(array.nbytes for array in (*arrays, *inline))
        assert one.nodes == len(whole.graph.node)
        assert one.operators["Conv"] == 1


def test_the_manifest_tells_what_is_counted(tiny_bundle: Path) -> None:
    inspection = inspect_bundle(tiny_bundle)
    assert inspection.differences == []
    graphs = open_bundle(tiny_bundle).manifest.precisions["fp32"].graphs
    for one in inspection.graphs:
        assert graphs[one.modalities[0]].cost == one.cost


def test_command_prints_a_table_of_parts_or_json(tiny_bundle: Path) -> None:
    table = run(tiny_bundle)
    assert table.exit_code == 0, table.output
    lines = [line.split() for line in table.stdout.splitlines()]
    heads = [number for number, line in enumerate(lines) if line[:1] == ["part"]]
    assert len(heads) == 2
    for head in heads:
        rows = {line[0]: line[1:] for line in lines[head + 1 : head + 6]}
        assert list(rows) == ["patches", "blocks", "ipg", "head", "all"]
        macs = {part: int(number.replace(",", "")) for part, (number, _) in rows.items()}
        assert sum(macs.values()) == 2 * macs["all"]
        assert rows["all"][1] == "100.00%"
    document = json.loads(run(tiny_bundle, "--json").stdout)
    modalities = [one["modalities"] for one in document["graphs"]]
    assert sorted(modalities) == [["infrared"], ["visible"]]
    assert document["graphs"][0]["cost"]["macs"] > 0
    assert document["graphs"][0]["differences"] == []


def test_a_manifest_that_tells_another_cost_is_told(tiny_bundle: Path, tmp_path: Path) -> None:
    flattered = told(
        tiny_bundle,
        tmp_path / "flattered",
        lambda cost: replace(cost, macs=cost.macs - 1, weight_bytes=2 * cost.weight_bytes),
    )
    result = run(flattered)
    assert result.exit_code == 1
    assert "part" in result.stdout
    assert result.stderr.startswith(f"Error: {flattered} tells of itself what its graphs do not")
    assert "visible.onnx: the manifest tells" in result.stderr
    assert " bytes of weights, the graph has " in result.stderr
    assert "infrared.onnx" not in result.stderr
    assert result.stderr.count("\n") == 1
    document = json.loads(run(flattered, "--json").stdout)
    by_file = {one["file"]: one["differences"] for one in document["graphs"]}
    assert len(by_file["visible.onnx"]) == 2
    assert by_file["infrared.onnx"] == []


def test_a_manifest_that_tells_no_cost_is_told(tiny_bundle: Path, tmp_path: Path) -> None:
    silent = told(tiny_bundle, tmp_path / "silent", lambda cost: None)
    result = run(silent)
    assert result.exit_code == 1
    assert "visible.onnx: the manifest tells no cost" in result.stderr


def test_a_graph_that_cannot_be_counted_is_named_with_its_file(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "open"
    shutil.copytree(tiny_bundle, folder)
    graph = onnx.load(str(folder / "visible.onnx"), load_external_data=False)
    graph.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"
    (folder / "visible.onnx").write_bytes(graph.SerializeToString())
    seal(folder, open_bundle(tiny_bundle).manifest)
    with pytest.raises(BundleError, match=r"visible.onnx: the node 'patches/Conv' \(Conv\)"):
        inspect_bundle(folder)


def test_one_graph_of_both_lights_is_counted_once(tiny_unified_bundle: Path) -> None:
    half, single = inspect_bundle(tiny_unified_bundle).graphs
    for one, precision in ((single, "fp32"), (half, "fp16")):
        assert one.precision == precision
        assert set(one.modalities) == set(Modality)
        assert one.differences == ()
    assert half.cost.macs == single.cost.macs
    table = run(tiny_unified_bundle).stdout
    assert "unified.onnx  fp32, infrared and visible crops" in table
    assert "unified.fp16.onnx  fp16, infrared and visible crops" in table
