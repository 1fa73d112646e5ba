"""Weights by name: `--init hf:ORG/NAME` fetches a plain ViT from the Hugging Face hub, pinned."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mip_edge.errors import CheckpointError, OptionError

PREFIX = "hf:"
FILE = "model.safetensors"
_ELSEWHERE = f"or download its {FILE} on another machine and pass the file's path to --init"
_NAME = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w][\w./-]*))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Pin:
    """The state of a repository that a name without revision means."""

    commit: str
    sha256: str | None
    """Of model.safetensors; None where too few records of it were found."""
    licence: str = "Apache-2.0"
    """Of the weights, as the repository's own card states it."""


PINNED: Mapping[str, Pin] = {
    "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k": Pin(
        "7d3afdd0cf93ad84d986eb2d6bcc5812ebd0b106",
        "fecf81b492bd13ee7a5297cb74d1d417aac8bf7e1b7d96aed89c4691984587ed",
    ),
    "timm/vit_small_patch16_224.augreg_in21k_ft_in1k": Pin(
        "7e2c55630205e1266030f18370f4c6ed1a514b52",
        "79c03c635cdfd798a364a9d8c4e5c0b7255b975ea2c9616046d4f77ab01435aa",
    ),
    "timm/vit_base_patch16_224.augreg_in21k_ft_in1k": Pin(
        "2ec9fb3d7bb664aac471ac44582c94d18de33780",
        "c401d219603ac3e20b6373c7b198c78d3a733f80b755d148bda3bc320ae69800",
    ),
    "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k": Pin(
        "063c6c38a5d8510b2e57df480445e94b231dad2c",
        "32aa17d6e17b43500f531d5f6dc9bc93e56ed8841b8a75682e1bb295d722405b",
    ),
    "timm/vit_base_patch16_224.orig_in21k_ft_in1k": Pin(
        "e0bd370de6799e8d1f47a911174ff4c3708e2323", None
    ),
    "google/vit-base-patch16-224": Pin("3f49326eb077187dfe1c2a2bb15fbd74e6ab91e3", None),
    "google/vit-base-patch16-224-in21k": Pin(
        "b4569560a39a0f1af58e3ddaf17facf20ab919b0",
        "fd4e1169c7aa6c2dbfa8a6448be13b35abc0ee256190857c90009d12c094619b",
    ),
}
"""ViT-Ti, -S and -B/16 for the presets tiny, small and base. Each commit, and each digest, stands
in several public files; `orig` is, as far as public tables tell, the file that the published
training starts from (jx_vit_base_p16_224-80ecf9dd). None was fetched when this was written. Any
other repository needs an @REVISION: what "the newest" is today cannot be reproduced tomorrow."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """Weights on this machine, and exactly which."""

    path: Path
    repository: str
    commit: str
    """40 hexadecimal digits, whatever revision was asked for."""
    licence: str | None = None
    """Of the weights; None: unknown here, see the repository's card."""

    def record(self) -> dict[str, str | None]:
        """For the record of a run or checkpoint."""
        return {
            "repository": self.repository,
            "commit": self.commit,
            "file": FILE,
            "licence": self.licence,
        }


def is_hub_name(name: str) -> bool:
    """Whether `--init` means the hub and not a file."""
    return name.startswith(PREFIX)


def fetch_weights(name: str) -> Fetched:
    """The weights that "hf:ORG/NAME" or "hf:ORG/NAME@REVISION" means, from the hub or its cache.

    A revision is a commit, or a branch or tag that is resolved to its commit; without one the
    repository must be in `PINNED`. A pinned file is checked against its digest.
    Raises: OptionError for a name that is none; CheckpointError where nothing can be fetched.
    """
    repository, revision = _parse(name)
    pin = PINNED.get(repository)
    if revision is None:
        if pin is None:
            raise OptionError(
                f"--init {name} names no revision, and none is pinned for it: say "
                f"{PREFIX}{repository}@COMMIT, or @main, whose commit goes into the run's record "
                f"(pinned are: {', '.join(PINNED)})"
            )
        revision = pin.commit
    path = _download(name, repository, revision)
    # The hub's cache keeps each file below the commit that it belongs to.
    commit = path.parent.name
    if _COMMIT.fullmatch(commit) is None or (_COMMIT.fullmatch(revision) and commit != revision):
        raise CheckpointError(
            f"--init {name}: the cache of huggingface_hub does not tell the commit of {path}; "
            "name the commit, or pass the file's path to --init"
        )
    if pin is not None and commit == pin.commit and pin.sha256 is not None:
        _verify(path, pin.sha256, name)
    return Fetched(path, repository, commit, None if pin is None else pin.licence)


def _parse(name: str) -> tuple[str, str | None]:
    match = _NAME.fullmatch(name.removeprefix(PREFIX)) if is_hub_name(name) else None
    if match is None:
        raise OptionError(f"--init {name} must be {PREFIX}ORG/NAME or {PREFIX}ORG/NAME@REVISION")
    return match["repository"], match["revision"]


def _download(name: str, repository: str, revision: str) -> Path:
    """The file in the hub's cache; every refusal as one line with the way out."""
    from huggingface_hub import errors, hf_hub_download

    page = f"https://huggingface.co/{repository}"
    try:
        return Path(hf_hub_download(repository, FILE, revision=revision))
    except errors.GatedRepoError as error:
        trouble = f"{page} is gated: accept its terms there and log in (hf auth login)"
        raise CheckpointError(f"--init {name}: {trouble}, {_ELSEWHERE}") from error
    except errors.RepositoryNotFoundError as error:
        trouble = f"there is no {page}, or it is private (then: hf auth login); check the name"
        raise CheckpointError(f"--init {name}: {trouble}, {_ELSEWHERE}") from error
    except errors.RevisionNotFoundError as error:
        trouble = f"{page} has no revision {revision}; choose one of {page}/commits/main"
        raise CheckpointError(f"--init {name}: {trouble}, {_ELSEWHERE}") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        trouble = (
            "the hub cannot be reached from here (or HF_HUB_OFFLINE is set), and its cache does "
            "not hold the file; connect"
        )
        raise CheckpointError(f"--init {name}: {trouble}, {_ELSEWHERE}: {page}") from error
    except errors.EntryNotFoundError as error:
        trouble = (
            f"{page} has no {FILE} at {revision} (weights in several parts or as .bin are not "
            "read); choose a repository with one"
        )
        raise CheckpointError(
            f"--init {name}: {trouble}, or convert its weights and pass the file's path to --init"
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        trouble = f"{page} was refused ({reason}); try again later"
        raise CheckpointError(f"--init {name}: {trouble}, {_ELSEWHERE}") from error


def _verify(path: Path, sha256: str, name: str) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != sha256:
        raise CheckpointError(
            f"--init {name}: {path} differs from the file of its pinned commit (SHA-256); remove "
            "it from the cache and fetch it again"
        )
