"""A folder written beside its place, then renamed: whole or not at all; the last good one stays."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mip_edge.errors import OutputError


@contextmanager
def write_folder(
    target: Path, kind: str, is_ours: Callable[[Path], bool], *, overwrite: bool = False
) -> Iterator[Path]:
    """A draft folder beside `target` that takes its name when the block ends well.

    With `overwrite` an older folder is replaced if `is_ours` says that it is one of `kind`
    (words for the error) and of nobody else; it stays as it was if the block fails.
    Raises: OutputError if `target` may not be replaced or cannot be written.
    """
    refuse_existing(target, kind, is_ours, overwrite=overwrite)
    made = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.draft-", dir=target.parent))
    except OSError as error:
        raise _refusal(target, error) from error
    try:
        draft.chmod(0o755)  # mkdtemp gives 0o700; a server reads the folder by another account
        yield draft
        # Once more: somebody else may have written there in the meantime.
        refuse_existing(target, kind, is_ours, overwrite=overwrite)
        _take_place(draft, target)
    except OSError as error:
        raise _refusal(target, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        for parent in made:
            with suppress(OSError):
                parent.rmdir()  # only where it is empty: the block failed


def refuse_existing(
    target: Path, kind: str, is_ours: Callable[[Path], bool], *, overwrite: bool
) -> None:
    """Raises: OutputError if `target` exists and may not be replaced, as `write_folder` says."""
    if target.is_symlink():
        raise OutputError(
            f"{target} is a link, and no link is replaced: name what it points at "
            f"({os.path.realpath(target)}), or choose another place"
        )
    if not target.exists():
        return
    if not overwrite:
        raise OutputError(f"{target} exists already; choose another place or add --overwrite")
    if not target.is_dir() or (any(target.iterdir()) and not is_ours(target)):
        raise OutputError(
            f"{target} is not {kind} of mip-edge alone, so --overwrite leaves it as it is; "
            "choose another place, or remove it yourself"
        )


def _take_place(draft: Path, target: Path) -> None:
    """Rename the draft to the target; an older folder goes only when the new one stands."""
    if not target.exists():
        draft.replace(target)
        return
    older = Path(tempfile.mkdtemp(prefix=f".{target.name}.older-", dir=target.parent))
    try:
        target.replace(older)
    except OSError:
        older.rmdir()
        raise
    try:
        draft.replace(target)
    except OSError:
        older.replace(target)
        raise
    shutil.rmtree(older, ignore_errors=True)


def _refusal(target: Path, error: OSError) -> OutputError:
    return OutputError(f"{target} cannot be written: {error.strerror or error}")
