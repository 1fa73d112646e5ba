"""Text of Triton's model configurations: what goes in, what comes out, how it is batched.

Source: model_configuration.md and ensemble_models.md of github.com/triton-inference-server/server,
docs/user_guide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mip_edge.errors import OptionError
from mip_edge.spec import Modality


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output as Triton's configuration tells it."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    """Without the batch; empty for one number a crop."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the repository as seen by a client."""

    name: str
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]


@dataclass(frozen=True, slots=True)
class Serving:
    """How the server batches; checks itself."""

    max_batch: int
    """Most crops of one run of a graph."""
    queue_delay_us: int
    """Longest wait of a request for others, microseconds."""

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise OptionError(f"max_batch must be at least 1, got {self.max_batch}")
        if self.queue_delay_us < 0:
            raise OptionError(f"queue_delay_us must be at least 0, got {self.queue_delay_us}")

    @property
    def preferred(self) -> list[int]:
        """Batch sizes that do not wait for the delay to end: a quarter, a half, all."""
        return sorted({max(1, self.max_batch // share) for share in (4, 2, 1)})


def model_config(model: Model, serving: Serving, parameters: Mapping[str, str]) -> str:
    """The config.pbtxt of a model that ONNX Runtime runs."""
    preferred = ", ".join(map(str, serving.preferred))
    lines = [
        f"name: {_quoted(model.name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {serving.max_batch}",
        *_tensors("input", model.inputs),
        *_tensors("output", model.outputs),
        "version_policy { latest { num_versions: 1 } }",
        # Without a count Triton opens an ONNX graph twice on a CPU, weights and all.
        "instance_group [",
        "  {",
        "    kind: KIND_AUTO",
        "    count: 1",
        "  }",
        "]",
        "dynamic_batching {",
        f"  preferred_batch_size: [ {preferred} ]",
        f"  max_queue_delay_microseconds: {serving.queue_delay_us}",
        "}",
        *_parameters(parameters),
    ]
    return "\n".join(lines) + "\n"


def ensemble_config(
    name: str, models: Mapping[Modality, Model], serving: Serving, parameters: Mapping[str, str]
) -> str:
    """The config.pbtxt of the ensemble that runs one model for each modality on one request.

    Its tensors are the models', with the modality in front. An ensemble has neither instances nor
    a batcher of its own; its models have.
    """
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    steps: list[list[str]] = []
    for modality, model in models.items():
        lines = ["    {", f"      model_name: {_quoted(model.name)}", "      model_version: -1"]
        for kind, tensors, outside in (
            ("input_map", model.inputs, inputs),
            ("output_map", model.outputs, outputs),
        ):
            for tensor in tensors:
                seen = Tensor(f"{modality.value}_{tensor.name}", tensor.data_type, tensor.dims)
                outside.append(seen)
                lines += [
                    f"      {kind} {{",
                    f"        key: {_quoted(tensor.name)}",
                    f"        value: {_quoted(seen.name)}",
                    "      }",
                ]
        steps.append([*lines, "    }"])
    written = [
        f"name: {_quoted(name)}",
        'platform: "ensemble"',
        f"max_batch_size: {serving.max_batch}",
        *_tensors("input", inputs),
        *_tensors("output", outputs),
        "version_policy { latest { num_versions: 1 } }",
        "ensemble_scheduling {",
        "  step [",
        *_separated(steps),
        "  ]",
        "}",
        *_parameters(parameters),
    ]
    return "\n".join(written) + "\n"


def _tensors(kind: str, tensors: Iterable[Tensor]) -> list[str]:
    """The block of inputs or outputs."""
    blocks = []
    for tensor in tensors:
        lines = [f"    name: {_quoted(tensor.name)}", f"    data_type: {tensor.data_type}"]
        if tensor.dims:
            lines.append(f"    dims: [ {', '.join(map(str, tensor.dims))} ]")
        else:
            # Triton knows no empty shape: a client sends (crops, 1), the graph gets (crops,).
            lines += ["    dims: [ 1 ]", "    reshape { shape: [ ] }"]
        blocks.append(["  {", *lines, "  }"])
    return [f"{kind} [", *_separated(blocks), "]"]


def _separated(blocks: Sequence[Sequence[str]]) -> list[str]:
    """Lines of the blocks, a comma between them."""
    return ",\n".join("\n".join(block) for block in blocks).split("\n")


def _parameters(parameters: Mapping[str, str]) -> list[str]:
    lines = []
    for key, value in sorted(parameters.items()):
        lines += [
            "parameters {",
            f"  key: {_quoted(key)}",
            f"  value {{ string_value: {_quoted(value)} }}",
            "}",
        ]
    return lines


def _quoted(text: str) -> str:
    """A string of protobuf's text format; the name of a camera may hold anything."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{"".join(one if one.isprintable() else _octal(one) for one in escaped)}"'


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode())
