"""Any ONNX detector by description: fed as told, read as told, refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mip_edge.errors import EngineError, OptionError
from mip_edge.live.box import Detections, intersection_over_union
from mip_edge.live.nanodet import NanoDet, open_size
from mip_edge.live.onnx_description import NANODET_MEAN, NANODET_STD, read_description
from mip_edge.live.onnx_detector import OnnxDetector, open_detector
from mip_edge.live.onnx_layout import Axes, Colour, Fit, Layout, Placement

ELEMENTS = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "uint8": TensorProto.UINT8,
}
FRAME = np.zeros((64, 128, 3), np.uint8)


def write_graph(
    path: Path,
    outputs: Mapping[str, NDArray[np.generic]],
    *,
    batch: int | str = 1,
    size: tuple[int | str, int | str] = (32, 64),
    element: str = "float32",
    batched: bool = True,
    score_of_channel: int | None = None,
) -> None:
    """A graph that gives `outputs` for each frame whatever it sees, (batch, *shape) if `batched`.

    With `score_of_channel` the output "scores" is the brightest value of that channel instead.
    """
    initializers = [numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes")]
    nodes = [
        helper.make_node("Cast", ["images"], ["seen"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["seen", "axes"], ["bright"], keepdims=0),
        helper.make_node("Sub", ["bright", "bright"], ["nothing"]),
    ]
    infos = []
    for name, value in outputs.items():
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        rank = value.ndim + batched
        infos.append(helper.make_tensor_value_info(name, kind, [None] * rank))
        if name == "scores" and score_of_channel is not None:
            initializers += [
                numpy_helper.from_array(np.array([score_of_channel], np.int64), "channel"),
                numpy_helper.from_array(np.array([2, 3], np.int64), "plane"),
            ]
            nodes += [
                helper.make_node("Gather", ["seen", "channel"], ["one"], axis=1),
                helper.make_node("ReduceMax", ["one", "plane"], ["scores"], keepdims=0),
            ]
            continue
        initializers.append(
            numpy_helper.from_array(value[np.newaxis] if batched else value, f"{name}_")
        )
        if not batched:
            nodes.append(helper.make_node("Identity", [f"{name}_"], [name]))
            continue
        shape = np.array([-1] + [1] * value.ndim, np.int64)
        initializers.append(numpy_helper.from_array(shape, f"{name}_shape"))
        nodes += [
            helper.make_node("Reshape", ["nothing", f"{name}_shape"], [f"{name}_spread"]),
            helper.make_node("Cast", [f"{name}_spread"], [f"{name}_zero"], to=kind),
            helper.make_node("Add", [f"{name}_", f"{name}_zero"], [name]),
        ]
    images = helper.make_tensor_value_info("images", ELEMENTS[element], [batch, 3, *size])
    graph = helper.make_graph(nodes, "detector", [images], infos, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def describe(folder: Path, text: str) -> Path:
    path = folder / "detector.toml"
    path.write_text(f'model = "it.onnx"\n{text}')
    return path


def detect(path: Path, *images: NDArray[np.uint8]) -> list[Detections]:
    detector = open_detector(path, min_score=0.5, threads=1)
    return detector.detect(images, range(len(images)))


def yolox(rows: Mapping[int, tuple[float, ...]], cells: int = 42) -> NDArray[np.float32]:
    """(cells, 7): nobody but in the given rows; two classes."""
    table = np.zeros((cells, 7), np.float32)
    for row, values in rows.items():
        table[row] = values
    return table


# Input 64 wide, 32 high: 4x8 cells of stride 8, then 2x4 of 16, then 1x2 of 32.
# Row 38 is column 2, row 1 of stride 16: middle (2.5, 1.25) x 16, size (2, 1.5) x 16.
PERSON = (0.5, 0.25, np.log(2.0), np.log(1.5), 0.8, 0.9, 0.1)


@pytest.mark.parametrize("batch", [1, 3, "N"])
def test_yolox_is_decoded_as_its_demo_does(tmp_path: Path, batch: int | str) -> None:
    other = (0.5, 0.25, 0.0, 0.0, 0.9, 0.1, 0.9)
    write_graph(tmp_path / "it.onnx", {"output": yolox({38: PERSON, 3: other})}, batch=batch)
    path = describe(tmp_path, 'kind = "yolox"')
    # Twice the input, then as wide but a quarter higher: scale 2/5, the frame fills 51 x 32.
    tall = np.zeros((80, 128, 3), np.uint8)
    found = detect(path, FRAME, tall, FRAME, FRAME)
    np.testing.assert_allclose(found[0].boxes, [[48, 16, 112, 64]], rtol=1e-5)
    np.testing.assert_allclose(found[0].scores, [0.72], rtol=1e-6)
    np.testing.assert_allclose(found[1].boxes, [[60, 20, 128, 80]], rtol=1e-5)
    assert len(found) == 4
    np.testing.assert_array_equal(found[3].boxes, found[0].boxes)


def test_yolox_that_decodes_itself_is_only_cut_into_corners(tmp_path: Path) -> None:
    rows = {0: (20.0, 16.0, 10.0, 20.0, 0.9, 0.1, 0.8)}
    write_graph(tmp_path / "it.onnx", {"output": yolox(rows)})
    text = 'kind = "yolox"\nperson = 1\nclasses = 2\n[output]\ndecoded = true\n'
    (found,) = detect(describe(tmp_path, text), FRAME)
    np.testing.assert_allclose(found.boxes, [[30, 12, 50, 52]], rtol=1e-6)


def test_yolox_gone_wild_is_refused_box_by_box_and_counted(tmp_path: Path) -> None:
    rows = {
        38: PERSON,
        5: (0.5, 0.5, 500.0, 0.0, 0.9, 0.9, 0.0),
        6: (np.nan, 0.5, 0.0, 0.0, 0.9, 0.9, 0.0),
        7: (0.5, 0.5, 0.0, 0.0, np.nan, 0.9, 0.0),
        8: (900.0, 0.5, 0.0, 0.0, 0.9, 0.9, 0.0),
    }
    write_graph(tmp_path / "it.onnx", {"output": yolox(rows)})
    (found,) = detect(describe(tmp_path, 'kind = "yolox"'), FRAME)
    np.testing.assert_allclose(found.boxes, [[48, 16, 112, 64]], rtol=1e-5)
    assert found.refused == 4


def test_nanodet_plus_is_one_tensor_with_cells_measured_from_their_corner(tmp_path: Path) -> None:
    # Input 64 x 32, strides 16 and 32: 8 + 2 cells; two classes and 8 bins.
    table = np.zeros((10, 2 + 4 * 8), np.float32)
    table[8 + 1, 1] = 0.75
    for side, peak in enumerate((1.0, 0.25, 0.5, 1.0)):
        low = int(peak)
        # Between two bins the expectation lies where their weights say.
        share = peak - low
        table[9, 2 + 8 * side : 10 + 8 * side] = -50.0
        table[9, 2 + 8 * side + low] = np.log(1 - share)
        if share:
            table[9, 2 + 8 * side + low + 1] = np.log(share)
    write_graph(tmp_path / "it.onnx", {"output": table}, batch="N")
    text = 'kind = "nanodet"\nperson = 1\nclasses = 2\n[output]\nstrides = [16, 32]\ncell = 0.0\n'
    (found,) = detect(describe(tmp_path, text), FRAME)
    # The corner of column 1, row 0 of stride 32 is (32, 0); sides 32, 8, 16, 32; then twice.
    np.testing.assert_allclose(found.boxes, [[0, 0, 96, 64]], atol=1e-4)
    np.testing.assert_allclose(found.scores, [0.75])


def test_nanodet_in_pairs_is_told_apart_by_shape_and_measured_from_the_middle(
    tmp_path: Path,
) -> None:
    outputs = {
        "b32": np.zeros((2, 4 * 5), np.float32),
        "s16": np.zeros((8, 3), np.float32),
        "s32": np.zeros((2, 3), np.float32),
        "b16": np.zeros((8, 4 * 5), np.float32),
    }
    outputs["s16"][5, 0] = 0.9
    outputs["s16"][6, 1] = 0.99
    # Flat over five bins: two strides to each side.
    write_graph(tmp_path / "it.onnx", outputs)
    text = 'kind = "nanodet"\nclasses = 3\n[output]\nstrides = [16, 32]\n'
    (found,) = detect(describe(tmp_path, text), np.zeros((128, 256, 3), np.uint8))
    # Cell 5 is column 1, row 1: middle (24, 24), box (-8, -8, 56, 56) in the input, x 4.
    np.testing.assert_allclose(found.boxes, [[0, 0, 224, 128]], atol=1e-4)
    with pytest.raises(EngineError, match="a nanodet with 3 classes"):
        detect(describe(tmp_path, text.replace("[16, 32]", "[16]")), FRAME)


BOXES = np.array([[4, 6, 12, 30], [4, 6, 12, 29], [40, 2, 50, 22]], np.float32)
SCORES = np.array([0.7, 0.9, 0.6], np.float32)


@pytest.mark.parametrize("batched", [True, False])
def test_plain_boxes_go_through_suppression_and_back_to_the_frame(
    tmp_path: Path, batched: bool
) -> None:
    outputs = {"boxes": BOXES, "scores": SCORES}
    write_graph(tmp_path / "it.onnx", outputs, batch="N", batched=batched)
    found = detect(describe(tmp_path, 'kind = "boxes"'), FRAME, FRAME)
    assert len(found) == 2
    np.testing.assert_allclose(found[1].boxes, [[8, 12, 24, 58], [80, 4, 100, 44]])
    np.testing.assert_allclose(found[1].scores, [0.9, 0.6])


def test_a_graph_with_its_own_suppression_keeps_what_it_gives(tmp_path: Path) -> None:
    write_graph(tmp_path / "it.onnx", {"boxes": BOXES, "scores": SCORES})
    (found,) = detect(describe(tmp_path, 'kind = "boxes"\nmax_overlap = 1'), FRAME)
    assert len(found) == 3


def test_normalised_middles_scores_of_classes_and_logits_are_understood(tmp_path: Path) -> None:
    outputs = {
        "where": np.array([[0.5, 0.5, 0.25, 0.5], [0.25, 0.5, 0.1, 0.1]], np.float32),
        "who": np.array([[0.0, 2.0], [5.0, -5.0]], np.float32),
    }
    write_graph(tmp_path / "it.onnx", outputs)
    text = 'kind = "boxes"\nperson = 1\n[output]\nboxes = "where"\nscores = "who"\n'
    text += 'form = "cxcywh"\nunit = "normalised"\nscores_are = "logit"\n'
    (found,) = detect(describe(tmp_path, text), FRAME)
    np.testing.assert_allclose(found.boxes, [[48, 16, 80, 48]])
    np.testing.assert_allclose(found.scores, [1 / (1 + np.exp(-2))], rtol=1e-6)


def test_labels_choose_the_people(tmp_path: Path) -> None:
    outputs = {"boxes": BOXES, "scores": SCORES, "labels": np.array([7, 3, 7], np.int64)}
    write_graph(tmp_path / "it.onnx", outputs, batch="N")
    text = 'kind = "boxes"\nperson = 7\n[output]\nlabels = "labels"\n'
    found, _ = detect(describe(tmp_path, text), FRAME, FRAME)
    np.testing.assert_allclose(found.scores, [0.7, 0.6])


@pytest.mark.parametrize("element", ["float32", "float16"])
@pytest.mark.parametrize("colour", ["rgb", "bgr"])
def test_each_frame_of_a_batch_is_judged_by_its_own_colours(
    tmp_path: Path, element: str, colour: str
) -> None:
    outputs = {"boxes": BOXES[:1], "scores": SCORES[:1]}
    write_graph(tmp_path / "it.onnx", outputs, batch="N", element=element, score_of_channel=0)
    text = f'kind = "boxes"\n[input]\ncolour = "{colour}"\nscale = {1 / 255}\nfit = "stretch"\n'
    red, blue = np.zeros((40, 80, 3), np.uint8), np.zeros((100, 90, 3), np.uint8)
    red[:, :, 0], blue[:, :, 2] = 255, 204
    found = detect(describe(tmp_path, text), red, blue, red)
    expected = [[1], [], [1]] if colour == "rgb" else [[], [0.8], []]
    for one, scores in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.scores, scores, rtol=1e-3)


def test_scores_that_are_no_probabilities_are_told(tmp_path: Path) -> None:
    outputs = {"boxes": BOXES[:1], "scores": SCORES[:1]}
    write_graph(tmp_path / "it.onnx", outputs, element="uint8", score_of_channel=1)
    detector = open_detector(describe(tmp_path, 'kind = "boxes"'), min_score=0.5, threads=1)
    green = np.zeros((40, 80, 3), np.uint8)
    green[:, :, 1] = 200
    with pytest.raises(EngineError, match="scores from 200 to 200; expected 0 to 1"):
        detector.detect([green], [0])


def test_a_batch_axis_that_is_open_only_in_name_is_told_at_once(tmp_path: Path) -> None:
    outputs = {"boxes": BOXES[np.newaxis], "scores": SCORES[np.newaxis]}
    write_graph(tmp_path / "it.onnx", outputs, batch="N", batched=False)
    with pytest.raises(EngineError, match=r"\(1, 3, 4\), \(1, 3\); expected boxes \(2, N, 4\)"):
        open_detector(describe(tmp_path, 'kind = "boxes"'), min_score=0.5)
    path = describe(tmp_path, 'kind = "boxes"\nbatch = 1')
    assert [len(one) for one in detect(path, FRAME, FRAME, FRAME)] == [2, 2, 2]


def test_the_floor_of_a_description_stands_above_the_run_s(tmp_path: Path) -> None:
    write_graph(tmp_path / "it.onnx", {"boxes": BOXES, "scores": SCORES})
    (found,) = detect(describe(tmp_path, 'kind = "boxes"\nmin_score = 0.65'), FRAME)
    np.testing.assert_allclose(found.scores, [0.9])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "kind is missing; expected nanodet or yolox or boxes"),
        ('kind = "yolo"', "kind is 'yolo'; expected nanodet or yolox or boxes"),
        ('kind = "yolox"\nmax_overlop = 0.5', "unknown key max_overlop; did you mean max_overlap?"),
        (
            'kind = "yolox"\n[input]\ncolor = "bgr"',
            r"unknown key \[input\] color; did you mean colour",
        ),
        (
            'kind = "yolox"\n[output]\nform = "xyxy"',
            r'\[output\] form is for kind boxes; kind "yolox"',
        ),
        ('kind = "yolox"\n[outputs]\ndecoded = true', "unknown key outputs; did you mean output?"),
        ('kind = "yolox"\ninput = 3', r"input is 3; expected a table \[input\]"),
        ('kind = "yolox"\nperson = -1', "person is -1; expected a whole number of at least 0"),
        ('kind = "yolox"\nperson = true', "person is True"),
        ('kind = "yolox"\nperson = 2\nclasses = 2', "person is 2; expected below classes = 2"),
        ('kind = "nanodet"\nperson = 80', "person is 80; expected below 80"),
        ('kind = "yolox"\nmax_overlap = 1.5', "max_overlap is 1.5; expected a number from 0 to 1"),
        ('kind = "yolox"\nmin_score = nan', "min_score is nan; expected a number from 0 to 1"),
        (
            'kind = "yolox"\n[input]\nmean = [1, 2]',
            r"\[input\] mean is \[1, 2\]; expected a list of three",
        ),
        ('kind = "yolox"\n[input]\nstd = [1, 0, 1]', r"\[input\] std is .* three numbers above 0"),
        ('kind = "yolox"\n[input]\npad = 256', "at least 0 and at most 255"),
        (
            'kind = "yolox"\n[input]\nscale = 0',
            r"\[input\] scale is 0.0; expected a number above 0",
        ),
        ('kind = "yolox"\n[output]\nstrides = [8, 0]', r"\[output\] strides is \[8, 0\]"),
        ('kind = "yolox"\n[output]\ndecoded = 1', "decoded is 1; expected true or false"),
        ('kind = "boxes"\n[output]\nlabels = ""', "labels is ''; expected a text in quotes"),
        ('kind = "boxes"\n[output]\nscores_are = "x"', "expected probability or logit"),
        ('kind = "yolox', "is no TOML file"),
    ],
)
def test_a_description_that_cannot_be_is_named_by_file_and_key(
    tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "it.onnx").touch()
    with pytest.raises(OptionError, match=words) as caught:
        read_description(describe(tmp_path, text))
    assert str(tmp_path / "detector.toml") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('kind = "yolox"', r"shape \(1, 3, 4\), \(1, 3\)|2 outputs, a yolox one"),
        (
            'kind = "yolox"\n[output]\npredictions = "boxes"',
            r"shape \(1, 3, 4\); a yolox .* \(1, 42, at least 6\)",
        ),
        ('kind = "nanodet"', r"shape \(1, 3, 4\), \(1, 3\); a nanodet with 80 classes"),
        (
            'kind = "boxes"\n[output]\nboxes = "bboxes"',
            "no output 'bboxes'; it gives boxes, scores",
        ),
        (
            'kind = "boxes"\n[output]\nboxes = "scores"\nscores = "boxes"',
            r"expected boxes \(N, 4\)",
        ),
        ('kind = "boxes"\nperson = 1', r"scores \(1, N, more than 1\)"),
        ('kind = "boxes"\n[input]\nwidth = 640', "of width 64, .input. width is 640"),
        ('kind = "boxes"\n[input]\nlayout = "nhwc"', "of 64 channels; expected 3"),
        ('kind = "boxes"\n[input]\nname = "x"', "has the inputs images; .input. name is 'x'"),
    ],
)
def test_a_graph_that_is_not_what_its_description_says_is_one_clear_line(
    tmp_path: Path, text: str, words: str
) -> None:
    write_graph(tmp_path / "it.onnx", {"boxes": BOXES, "scores": SCORES})
    with pytest.raises((EngineError, OptionError), match=words) as caught:
        open_detector(describe(tmp_path, text), min_score=0.5, threads=1)
    assert str(tmp_path / "it.onnx") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_open_input_size_must_be_told_and_then_serves(tmp_path: Path) -> None:
    write_graph(tmp_path / "it.onnx", {"boxes": BOXES, "scores": SCORES}, size=("h", "w"))
    with pytest.raises(OptionError, match=r"leaves the width of its input open; set .input. width"):
        open_detector(describe(tmp_path, 'kind = "boxes"'), min_score=0.5)
    path = describe(tmp_path, 'kind = "boxes"\n[input]\nwidth = 64\nheight = 32')
    assert len(detect(path, FRAME)[0]) == 2


def test_whole_grey_levels_take_no_mean(tmp_path: Path) -> None:
    write_graph(tmp_path / "it.onnx", {"boxes": BOXES, "scores": SCORES}, element="uint8")
    path = describe(tmp_path, 'kind = "boxes"\n[input]\nmean = [1, 2, 3]')
    with pytest.raises(OptionError, match="reads whole grey levels"):
        open_detector(path, min_score=0.5)


def test_a_missing_or_broken_model_is_named(tmp_path: Path) -> None:
    path = describe(tmp_path, 'kind = "boxes"')
    with pytest.raises(OptionError, match=r"model .*it.onnx does not exist"):
        open_detector(path, min_score=0.5)
    (tmp_path / "it.onnx").write_bytes(b"nothing")
    with pytest.raises(EngineError, match=r"refuses the detector .*it.onnx"):
        open_detector(path, min_score=0.5)
    with pytest.raises(OptionError, match=r"cannot be read: No such file"):
        open_detector(tmp_path / "none.toml", min_score=0.5)


def test_an_unknown_detector_names_the_choices() -> None:
    with pytest.raises(OptionError, match="expected nanodet, motion, file, or a .toml file"):
        open_detector("yolox", min_score=0.5)


@pytest.mark.parametrize(("width", "height"), [(768, 576), (300, 900), (416, 416), (33, 20)])
@pytest.mark.parametrize("fit", Fit)
def test_a_frame_is_laid_in_and_its_corners_lead_back(width: int, height: int, fit: Fit) -> None:
    layout = Layout(416, 320, fit=fit, colour=Colour.BGR)
    image = np.full((height, width, 3), 255, np.uint8)
    batch, (place,) = layout.prepare([image])
    assert batch.shape == (1, 3, 320, 416)
    painted = np.argwhere(batch[0, 0] > 0)
    (top, left), (bottom, right) = painted.min(axis=0), painted.max(axis=0) + 1
    back = place.to_frame(np.array([[left, top, right, bottom]], np.float32))
    assert np.abs(back - [0, 0, width, height]).max() <= 1 / min(place.across, place.down)
    assert (place.across == place.down) == (fit is not Fit.STRETCH or width * 320 == height * 416)
    assert (fit is Fit.CENTRE) or (left, top) == (0, 0)


def test_mean_std_scale_and_borders_are_those_of_the_network_s_own_channels() -> None:
    red = np.zeros((8, 4, 3), np.uint8)
    red[:, :, 0] = 255
    layout = Layout(8, 8, colour=Colour.BGR, mean=NANODET_MEAN, std=NANODET_STD, pad=114)
    batch, (place,) = layout.prepare([red])
    expected = [-103.53 / 57.375, -116.28 / 57.12, (255 - 123.675) / 58.395]
    np.testing.assert_allclose(batch[0, :, 0, 3], expected, rtol=1e-5)
    np.testing.assert_allclose(
        batch[0, :, 0, 0],
        [(114 - m) / s for m, s in zip(NANODET_MEAN, NANODET_STD, strict=True)],
        rtol=1e-5,
    )
    assert place == Placement(1.0, 1.0, 2, 0)
    last, _ = Layout(8, 8, axes=Axes.NHWC, scale=1 / 255).prepare([red, red])
    assert last.shape == (2, 8, 8, 3)
    np.testing.assert_allclose(last[1, 0, 3], [1, 0, 0])


def test_borders_are_cut_to_a_multiple_of_what_the_frames_need() -> None:
    layout = Layout(416, 416, multiple=32)
    for height, width, expected in (
        (480, 640, (320, 416)),
        (432, 768, (256, 416)),
        (900, 300, (416, 160)),
        (416, 416, (416, 416)),
    ):
        batch, (place,) = layout.prepare([np.full((height, width, 3), 255, np.uint8)])
        assert batch.shape == (1, 3, *expected)
        corners = np.array([[0, 0, width, height]], np.float32) * place.across
        laid = np.add(corners, [place.left, place.top, place.left, place.top])
        np.testing.assert_allclose(place.to_frame(laid.astype(np.float32)), [[0, 0, width, height]])
    wide, high = np.zeros((100, 200, 3), np.uint8), np.zeros((200, 100, 3), np.uint8)
    assert layout.prepare([wide, high])[0].shape == (2, 3, 416, 416)


def test_an_open_size_follows_the_frame_and_boxes_stay_where_they_are(tmp_path: Path) -> None:
    normalised = np.array([[0.25, 0.25, 0.75, 0.75]], np.float32)
    outputs = {"boxes": normalised, "scores": np.array([0.9], np.float32)}
    write_graph(tmp_path / "it.onnx", outputs, size=("h", "w"))
    text = 'kind = "boxes"\n[input]\nwidth = 64\nheight = 64\nmultiple = 16\n'
    path = describe(tmp_path, text + '[output]\nunit = "normalised"')
    wide, square = detect(path, FRAME, np.zeros((100, 100, 3), np.uint8))
    np.testing.assert_allclose(wide.boxes, [[32, 16, 96, 48]])
    np.testing.assert_allclose(square.boxes, [[25, 25, 75, 75]], rtol=1e-6)


def test_a_multiple_needs_an_open_size(tmp_path: Path) -> None:
    write_graph(tmp_path / "it.onnx", {"boxes": BOXES, "scores": SCORES})
    path = describe(tmp_path, 'kind = "boxes"\n[input]\nmultiple = 32')
    with pytest.raises(OptionError, match="multiple is for one whose width and height are open"):
        open_detector(path, min_score=0.5)


def test_the_shipped_detector_is_one_of_these_and_reads_no_border(tmp_path: Path) -> None:
    shipped = NanoDet(min_score=0.3, threads=1)
    assert isinstance(shipped, OnnxDetector)
    assert (shipped.batch, shipped.layout.width, shipped.layout.height) == (1, 416, 416)
    batch, _ = shipped.layout.prepare([np.zeros((480, 640, 3), np.uint8)])
    assert batch.shape == (1, 3, 320, 416)
    with pytest.raises(EngineError, match="not the file that was shipped"):
        open_size(b"another graph")


def test_the_shipped_detector_finds_the_same_with_and_without_borders() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    frame = np.asarray(cv2.resize(frame, (640, 480), interpolation=cv2.INTER_CUBIC), np.uint8)
    cut = NanoDet(min_score=0.0, threads=1)
    bordered = OnnxDetector(
        replace(cut.description, input=replace(cut.description.input, multiple=416)),
        min_score=0.0,
        threads=1,
        graph=open_size(cut.description.model.read_bytes()),
    )
    assert bordered.layout.prepare([frame])[0].shape == (1, 3, 416, 416)
    (one,), (other,) = cut.detect([frame], [0]), bordered.detect([frame], [0])
    sure = one.at(np.argsort(-one.scores)[:5])
    overlap = intersection_over_union(sure.boxes, other.boxes).max(axis=1)
    assert (overlap > 0.6).all()
