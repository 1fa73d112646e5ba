"""Inputs and outputs of a plan: what is promised of them, and memory that is given back."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from engines.cuda_fake import FakeDevice
from engines.trt_tensor import Signature, Tensor, in_words, promised
from mip_edge.spec import EmbedderSpec, Modality

INFRARED = EmbedderSpec(Modality.INFRARED, 8, 4, 16, "abc")
VISIBLE = EmbedderSpec(Modality.VISIBLE, 8, 4, 16, "abc")


def test_the_plan_of_one_light_takes_its_channels_and_no_modality() -> None:
    assert in_words(promised({Modality.INFRARED: INFRARED})) == (
        "output embeddings float32 (-1, 16), input images uint8 (-1, 8, 4, 1)"
    )


def test_the_plan_of_both_lights_takes_three_channels_and_the_modality() -> None:
    expected = promised({Modality.INFRARED: INFRARED, Modality.VISIBLE: VISIBLE})
    assert expected["images"].shape == (-1, 8, 4, 3)
    assert expected["modality"] == Signature(np.dtype(np.int64), (-1,), True)
    assert len(expected) == 3


def test_rows_go_to_the_device_and_back_and_the_memory_is_given_back() -> None:
    device = FakeDevice()
    with device.current(), ExitStack() as stack:
        tensor = Tensor.make(device, (2, 3), np.dtype(np.int64), 4, stack=stack)
        assert (tensor.host.shape, tensor.host.dtype) == ((4, 2, 3), np.int64)
        stream = device.create_stream()
        stack.callback(device.destroy_stream, stream)
        rows = np.arange(12, dtype=np.int64).reshape(2, 2, 3)
        tensor.host[:2], tensor.host[2:] = rows, 7
        tensor.upload(device, 2, stream)
        device.synchronize(stream)
        tensor.host[:] = 0
        tensor.download(device, 2, stream)
        device.synchronize(stream)
        assert tensor.host[:2].tolist() == rows.tolist()
        assert (tensor.host[2:] == 0).all()
    assert device.held() == {}
