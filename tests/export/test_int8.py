"""INT8 in an export: the gate, the search, what is written, and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

pytest.importorskip("torch", reason="a checkpoint is exported with torch")

from calibration.activations import linear_maps
from calibration.scales import CalibrationOptions
from calibration.sensitivity import Sensitivity
from engines.parity import cosines
from engines.table import find_missing
from export import bundle, int8, int8_crops, int8_gate
from export.bundle import export_bundle
from export.cost import count_products
from export.gate import collect_crops
from export.inspection import _compare, format_inspection, inspect_bundle
from export.options import ExportOptions
from export.work import Examined
from mip_edge.artifact import Parity, open_bundle
from mip_edge.cli import cli
from mip_edge.data.dataset import Dataset, Sample
from mip_edge.data.image import read_image
from mip_edge.embedder import Embedder
from mip_edge.errors import CalibrationError, OptionError, ParityError
from mip_edge.spec import Embeddings, Modality
from mip_edge.synthetic.world import DatasetOptions, write_dataset

PRECISIONS = ("int8", "int8-fp16")
MAPS = [f"map {index}" for index in range(20)]


def embed(path: Path, engine: str, modality: Modality, **options: str) -> Embeddings:
    crops = [test.crop for test in collect_crops(None, None, modality)]
    with Embedder.open(path, engine=engine, threads=1, **options) as embedder:
        return embedder.embed(crops, modality)


def record_of(bundle: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((bundle / "calibration.json").read_text(encoding="utf-8"))
    return found


def load(bundle: Path, name: str) -> onnx.ModelProto:
    return onnx.load(str(bundle / name))


# The bundle


@pytest.mark.parametrize("modality", list(Modality), ids=lambda modality: modality.value)
@pytest.mark.parametrize(
    ("engine", "precision"),
    [("onnxruntime", "int8"), ("onnxruntime", "int8-fp16"), ("openvino", "int8")],
)
def test_int8_is_near_the_checkpoint_on_every_engine(
    tiny_checkpoint: Path, tiny_int8_bundle: Path, engine: str, precision: str, modality: Modality
) -> None:
    missing = find_missing(engine)
    if missing is not None:
        pytest.skip(missing)
    expected = embed(tiny_checkpoint, "torch", modality)
    found = embed(tiny_int8_bundle, engine, modality, precision=precision)
    alike = cosines(expected, found)
    assert alike.mean() >= 0.99
    assert alike.min() < 1 - 1e-6  # it is no float32 graph


def test_float16_around_int8_is_written_where_float16_is_asked_for(tiny_int8_bundle: Path) -> None:
    held = open_bundle(tiny_int8_bundle).manifest.precisions
    assert set(held) == {"fp32", "fp16", *PRECISIONS}
    for precision in PRECISIONS:
        for modality, graph in held[precision].graphs.items():
            assert graph.file == f"{modality.value}.{precision}.onnx"
            assert graph.parity is not None
            assert graph.parity.mean_cosine >= 0.99
    half = load(tiny_int8_bundle, "visible.int8-fp16.onnx")
    kinds = {one.data_type for one in half.graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert onnx.TensorProto.INT8 in kinds


def test_both_lights_have_the_same_scales_in_one_weight_file(tiny_int8_bundle: Path) -> None:
    for precision in PRECISIONS:
        files = [f"{modality.value}.{precision}.onnx" for modality in Modality]
        scales, places = [], []
        for file in files:
            scales.append(
                {
                    one.name: numpy_helper.to_array(one).tolist()
                    for one in load(tiny_int8_bundle, file).graph.initializer
                    if one.name.endswith("/scale")
                }
            )
            told = onnx.load(str(tiny_int8_bundle / file), load_external_data=False)
            places.append(
                {
                    one.name: {entry.key: entry.value for entry in one.external_data}
                    for one in told.graph.initializer
                    if one.name.endswith("/quantized")
                }
            )
        assert len(scales[0]) >= 12
        assert scales[0] == scales[1]
        assert len(places[0]) >= 6
        assert places[0] == places[1]  # the same bytes of the same file
        assert {place["location"] for place in places[0].values()} == {f"weights.{precision}.bin"}


def test_only_maps_that_were_not_kept_run_in_int8(tiny_int8_bundle: Path) -> None:
    kept = record_of(tiny_int8_bundle)["kept"]
    assert isinstance(kept, list)
    held = open_bundle(tiny_int8_bundle).manifest.precisions
    assert list(held["int8"].kept_float32) == kept
    products = count_products(load(tiny_int8_bundle, "visible.fp16.onnx"))
    names = linear_maps(load(tiny_int8_bundle, "visible.fp16.onnx"))
    expected = sum(products[node.name] for path, node in names.items() if path not in kept)
    for precision in PRECISIONS:
        cost = held[precision].graphs[Modality.VISIBLE].cost
        assert cost is not None
        assert cost.int8_macs == expected
        assert cost.macs == sum(products.values())


def test_the_record_lists_every_crop_with_the_hash_of_its_pixels(
    tiny_int8_bundle: Path, calibration_folder: Path
) -> None:
    crops = record_of(tiny_int8_bundle)["crops"]
    assert isinstance(crops, list)
    expected = {
        (modality.value, hashlib.sha256(read_image(path).tobytes()).hexdigest())
        for modality in Modality
        for path in (calibration_folder / modality.value).iterdir()
    }
    assert len(crops) == len(expected) == 24
    assert {(crop["modality"], crop["sha256"]) for crop in crops} == expected


def test_no_file_of_the_bundle_holds_a_path_of_this_machine(
    tiny_int8_bundle: Path, calibration_folder: Path
) -> None:
    for path in tiny_int8_bundle.iterdir():
        content = path.read_bytes()
        for folder in (calibration_folder.parent, tiny_int8_bundle.parent):
            assert str(folder).encode() not in content, path.name


def test_the_record_tells_the_line_from_all_maps_to_none(tiny_int8_bundle: Path) -> None:
    record = record_of(tiny_int8_bundle)
    line, rated = record["line"], record["sensitivity"]
    assert isinstance(line, list)
    assert isinstance(rated, list)
    assert line[0]["kept"] == 0
    assert (line[-1]["kept"], line[-1]["int8_share"], line[-1]["loss"]) == (12, 0, 0)
    shares = [one["int8_share"] for one in line]
    assert shares == sorted(shares, reverse=True)
    assert line[0]["loss"] > line[-2]["loss"]
    assert len(rated) == 12
    assert [one["loss"] for one in rated] == sorted((one["loss"] for one in rated), reverse=True)
    assert record["kept"] == [one["map"] for one in rated][: len(record["kept"])]  # type: ignore[arg-type]
    page = (tiny_int8_bundle / "report.md").read_text(encoding="utf-8")
    assert "## INT8" in page
    assert f"| {rated[0]['map']} | {rated[0]['loss']:.6f} |" in page


def test_the_same_export_gives_the_same_bytes(
    tiny_checkpoint: Path, tiny_int8_bundle: Path, calibration_folder: Path, tmp_path: Path
) -> None:
    options = ExportOptions(fp16=True, int8=True, calibrate=calibration_folder)
    export_bundle(tiny_checkpoint, tmp_path / "again", options)
    again = sorted(path.name for path in (tmp_path / "again").iterdir())
    assert again == sorted(path.name for path in tiny_int8_bundle.iterdir())
    for name in again:
        assert (tmp_path / "again" / name).read_bytes() == (tiny_int8_bundle / name).read_bytes()


# The gate and the search


def test_a_graph_that_loses_too_much_is_refused_and_names_the_worst_maps(
    tiny_checkpoint: Path,
    calibration_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(int8_gate, "MIN_MEAN_COSINE", 1.1)
    monkeypatch.setattr(int8_gate, "MIN_TOP1", 0.0)
    options = ExportOptions(layout="unified", int8=True, calibrate=calibration_folder)
    with pytest.raises(ParityError) as caught:
        export_bundle(tiny_checkpoint, tmp_path / "deep" / "bundle", options)
    message = str(caught.value)
    assert "has mean cosine 0.99" in message or "has mean cosine 1.00" in message
    assert "with the 6 worst maps in floating point" in message
    assert message.count("blocks.") == 5
    assert "--calibration-crops" in message
    assert message.endswith("nothing was written")
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


class Boundary:
    """A gate that holds from `needed` kept maps on, and remembers what it was asked."""

    def __init__(self, needed: int) -> None:
        self.needed = needed
        self.asked: list[int] = []

    def examine(self, work: object, graphs: Mapping[str, Sequence[str]], precision: str) -> object:
        kept = list(graphs["visible.onnx"])
        assert kept == MAPS[: len(kept)]  # the worst first
        self.asked.append(len(kept))
        if len(kept) < self.needed:
            raise ParityError("it loses too much")
        return ("worth of", len(kept))


def test_maps_that_lose_as_much_to_the_last_digit_written_go_by_name() -> None:
    """Below it the order of a sum decides, and two exports would differ."""
    rated = [Sensitivity("b", 0.0100004), Sensitivity("a", 0.0100001), Sensitivity("c", 0.02)]
    settled = int8._settle(rated)
    assert settled == (Sensitivity("c", 0.02), Sensitivity("a", 0.01), Sensitivity("b", 0.01))


def search(monkeypatch: pytest.MonkeyPatch, boundary: Boundary) -> tuple[object, ...]:
    monkeypatch.setattr(
        int8, "quantize_all", lambda graphs, thresholds, kept: dict.fromkeys(graphs, kept)
    )
    monkeypatch.setattr(int8, "examine_graphs", boundary.examine)
    graphs = {"visible.onnx": onnx.ModelProto()}
    return int8._search(SimpleNamespace(), graphs, {}, MAPS)  # type: ignore[arg-type]


@pytest.mark.parametrize("needed", [0, 1, 2, 3, 5, 7, 8, 9, 10])
def test_the_fewest_maps_that_pass_are_kept(monkeypatch: pytest.MonkeyPatch, needed: int) -> None:
    boundary = Boundary(needed)
    kept, graphs, examined = search(monkeypatch, boundary)
    assert kept == tuple(MAPS[:needed])
    assert graphs == {"visible.onnx": MAPS[:needed]}  # of the try that passed, and not of the last
    assert examined == ("worth of", needed)
    assert len(set(boundary.asked)) == len(boundary.asked) <= 8


@pytest.mark.parametrize("needed", [11, 20, 99])
def test_more_than_half_of_the_maps_is_no_int8(
    monkeypatch: pytest.MonkeyPatch, needed: int
) -> None:
    boundary = Boundary(needed)
    with pytest.raises(ParityError, match="it loses too much, with the 10 worst maps.* map 0, map"):
        search(monkeypatch, boundary)
    assert boundary.asked == [0, 1, 2, 4, 8, 10]


@pytest.mark.parametrize(
    ("top1", "mean", "crops", "words"),
    [
        (31 / 32, 0.99, 32, None),
        (round(35 / 36, 6), 1.0, 36, None),  # 0.972222 is one crop, though less than 35/36
        (34 / 36, 1.0, 36, "same top-1 0.9444 with float32 on 36 crops, expected at least 0.9722"),
        (0.99, 1.0, 200, None),
        (0.985, 1.0, 200, "same top-1 0.9850 .* at least 0.9900"),
        (1.0, 0.9899, 32, "mean cosine 0.9899 .* at least 0.9900"),
        (1.0, float("nan"), 32, "mean cosine nan"),
    ],
)
def test_without_labels_one_crop_may_have_another_neighbour(
    top1: float, mean: float, crops: int, words: str | None
) -> None:
    parity = Parity(smallest_cosine=0.9, mean_cosine=mean, top1_agreement=top1, crops=crops)
    if words is None:
        int8_gate._check_order(parity, "the int8 graph of visible crops")
        return
    with pytest.raises(ParityError, match=f"^the int8 graph of visible crops has {words}"):
        int8_gate._check_order(parity, "the int8 graph of visible crops")


def test_a_file_may_be_a_hundredth_of_cosine_from_its_graph_in_memory() -> None:
    parity = Parity(smallest_cosine=0.95, mean_cosine=0.99, top1_agreement=1.0, crops=4)
    examined = {"int8": Examined({Modality.VISIBLE: parity}, None)}
    work = SimpleNamespace(examined=examined, options=ExportOptions(min_cosine=0.9))
    least, reason = bundle._least_cosine(work, "int8", Modality.VISIBLE)  # type: ignore[arg-type]
    assert (least, reason) == (0.94, "0.01 below what the same graph gave in memory")
    least, flag = bundle._least_cosine(work, "fp32", Modality.VISIBLE)  # type: ignore[arg-type]
    assert (least, flag) == (0.9, "--min-cosine")


# What it is calibrated on


def work_of(training: Mapping[str, object], **options: object) -> SimpleNamespace:
    model = SimpleNamespace(options=SimpleNamespace(image_size=(32, 16)))
    asked = ExportOptions(int8=True, **options)  # type: ignore[arg-type]
    return SimpleNamespace(record={"training": training}, options=asked, model=model, dataset=None)


@pytest.mark.parametrize(
    "training", [{}, {"data": {"names": ["a"]}}, {"pretrain": "another"}], ids=str
)
def test_a_model_of_real_people_needs_their_crops(training: dict[str, object]) -> None:
    with pytest.raises(CalibrationError) as caught:
        int8_crops.calibration_crops(work_of(training))  # type: ignore[arg-type]
    message = str(caught.value)
    assert "--int8 needs crops of people that the model learned from" in message
    assert "give them with --calibrate DATA" in message
    assert "\n" not in message


def test_a_model_of_drawn_people_is_calibrated_on_people_of_its_own_world() -> None:
    """Not on those of the comparison, which come from another."""
    calibration = CalibrationOptions(crops=4)
    work = work_of({"pretrain": {"seed": 7}}, calibration=calibration)
    names = [crop.name for crop in int8_crops.calibration_crops(work)]  # type: ignore[arg-type]
    assert names == 2 * ["synthetic person 0 of world 7", "synthetic person 1 of world 7"]
    examined = collect_crops(None, None, Modality.VISIBLE, drawn=2)
    for crop in int8_crops.calibration_crops(work):  # type: ignore[arg-type]
        assert not any(np.array_equal(crop.crop, one.crop) for one in examined)


def test_only_people_in_the_names_of_the_checkpoint_are_calibrated_on(tmp_path: Path) -> None:
    write_dataset(
        tmp_path / "data",
        DatasetOptions(train_identities=4, test_identities=2, crops=2, image_size=(32, 16)),
    )
    learned = {"data": {"names": ["00001", "00002"]}}
    work = work_of(learned, calibrate=tmp_path / "data")
    crops = int8_crops.calibration_crops(work)  # type: ignore[arg-type]
    assert {crop.identity for crop in crops} == {"00001", "00002"}


def test_crops_that_the_gate_examines_are_refused(calibration_folder: Path) -> None:
    work = work_of({}, calibrate=calibration_folder)
    assert int8_crops.calibration_crops(work)  # type: ignore[arg-type]
    query = [Sample(calibration_folder / "visible" / "03.png", "a", Modality.VISIBLE)]
    work.dataset = Dataset(query=query)
    with pytest.raises(CalibrationError, match=r"03\.png is a query or gallery crop of --data"):
        int8_crops.calibration_crops(work)  # type: ignore[arg-type]


# The command line


def test_the_command_writes_a_unified_bundle_and_a_report(
    tiny_checkpoint: Path, calibration_folder: Path, tmp_path: Path
) -> None:
    """One run for all options that change how scales are found."""
    pytest.importorskip("matplotlib", reason="the report is drawn with matplotlib")
    bundle, report = tmp_path / "bundle", tmp_path / "report"
    arguments = ["export", str(tiny_checkpoint), "-o", str(bundle), "--layout", "unified"]
    arguments += ["--int8", "--calibrate", str(calibration_folder), "--calibration-crops", "10"]
    arguments += ["--calibration-method", "percentile", "--smoothing", "0.4", "--ranges", "each"]
    result = CliRunner().invoke(cli, [*arguments, "--int8-report", str(report), "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert set(document["precisions"]) == {"fp32", "int8"}
    assert len(document["sensitivity"]) == 12
    record = record_of(bundle)
    assert (record["method"], record["smoothing"]) == ("percentile 99.99", 0.4)
    assert record["ranges"] == "each"
    assert len(record["crops"]) == 10  # type: ignore[arg-type]
    timed = document["timed"]
    assert [one["point"]["kept"] for one in timed] == [
        one["kept"]
        for one in record["line"]  # type: ignore[attr-defined]
    ]
    assert sum(one["chosen"] for one in timed) == 1
    assert all(one["milliseconds"] > 0 for one in timed)
    page = (report / "int8.md").read_text(encoding="utf-8")
    assert "(in the bundle)" in page
    assert (report / "int8.png").is_file()
    for modality in Modality:
        expected = embed(tiny_checkpoint, "torch", modality)
        found = embed(bundle, "onnxruntime", modality, precision="int8")
        assert cosines(expected, found).mean() >= 0.99


@pytest.mark.parametrize("exists", ["empty", "foreign"])
def test_a_report_that_cannot_be_written_is_refused_before_work_begins(
    tiny_checkpoint: Path,
    calibration_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    exists: str,
) -> None:
    pytest.importorskip("matplotlib", reason="the report is drawn with matplotlib")
    monkeypatch.setattr("export.bundle.begin", None)
    (tmp_path / "report").mkdir()
    arguments = ["export", str(tiny_checkpoint), "-o", str(tmp_path / "bundle"), "--int8"]
    arguments += ["--calibrate", str(calibration_folder), "--int8-report", str(tmp_path / "report")]
    words = "report exists already; choose another place or add --overwrite"
    if exists == "foreign":
        (tmp_path / "report" / "mine.txt").write_text("mine", encoding="utf-8")
        arguments.append("--overwrite")
        words = "is not a report on INT8 of mip-edge alone"
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize("places", [("a", "a"), ("a", "a/report"), ("a/bundle", "a")])
def test_a_bundle_and_a_report_have_a_place_each(
    tiny_checkpoint: Path, tmp_path: Path, places: tuple[str, str]
) -> None:
    bundle, report = (str(tmp_path / place) for place in places)
    arguments = ["export", str(tiny_checkpoint), "-o", bundle, "--int8", "--int8-report", report]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert "give two places" in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_float_servers_take_no_int8(tiny_checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["export", str(tiny_checkpoint), "-o", str(tmp_path / "models"), "--int8"]
    result = CliRunner().invoke(cli, [*arguments, "--for", "triton"])
    assert result.exit_code == 1
    assert "--for triton writes float graphs: leave --int8 out" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--calibration-crops", "8"),
        ("--calibration-method", "mse"),
        ("--smoothing", "0.2"),
        ("--ranges", "each"),
        ("--max-drop", "1"),
    ],
)
def test_an_option_of_int8_without_int8_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, flag: str, value: str
) -> None:
    arguments = ["export", str(tiny_checkpoint), "-o", str(tmp_path / "bundle"), flag, value]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert f"{flag} belongs to --int8; give both" in result.stderr


@pytest.mark.parametrize("option", [{"calibrate": Path("crops")}, {"time_int8": True}])
def test_calibration_and_report_belong_to_int8(option: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match="belongs to --int8; give both"):
        ExportOptions(**option)  # type: ignore[arg-type]


def test_the_published_graph_has_no_int8() -> None:
    with pytest.raises(OptionError, match="--surgery none is the published graph.* without --int8"):
        ExportOptions(int8=True, surgery="none")


def test_inspect_counts_what_runs_in_int8_and_finds_a_manifest_that_lies(
    tiny_int8_bundle: Path,
) -> None:
    inspection = inspect_bundle(tiny_int8_bundle)
    shares = {one.precision: one.cost.int8_macs / one.cost.macs for one in inspection.graphs}
    assert shares["fp32"] == shares["fp16"] == 0
    assert 0.2 < shares["int8"] == shares["int8-fp16"] < 1
    assert not any(one.differences for one in inspection.graphs)
    assert format_inspection(inspection).count("in INT8") == 4
    counted = inspection.graphs[-1].cost
    (difference,) = _compare(counted, replace(counted, int8_macs=7))
    assert difference == f"the manifest tells 7 MACs in INT8, the graph has {counted.int8_macs:,}"
