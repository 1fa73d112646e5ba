"""The public fake: what users' tests may rely on."""

from __future__ import annotations

import numpy as np

from engines.fake import FakeEngine
from mip_edge.spec import EmbedderSpec, Modality

SPEC = EmbedderSpec(Modality.INFRARED, height=4, width=2, dimension=3, fingerprint="f")
KNOWN = [-0.488624, 0.788913, 0.372643]
"""The crop 0, 1, 2, ... 7, embedded in another process."""


def test_the_same_crop_gives_the_same_embedding_in_every_process() -> None:
    batch = np.arange(8, dtype=np.uint8).reshape(1, 4, 2, 1)
    with FakeEngine(SPEC) as engine:
        embedding = engine.embed(batch)
    np.testing.assert_allclose(embedding[0], KNOWN, atol=1e-6)
    with FakeEngine(SPEC) as engine:
        np.testing.assert_array_equal(engine.embed(np.concatenate([batch, batch]))[1], embedding[0])
