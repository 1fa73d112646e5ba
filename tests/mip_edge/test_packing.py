"""A packed bundle is one file of which every byte counts, and unpacks to the bundle it was."""

from __future__ import annotations

import io
import os
import resource
import signal
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mip_edge.artifact import Graph, Manifest, Precision, open_bundle, seal, write_bundle
from mip_edge.errors import BundleError, MipEdgeError, OutputError
from mip_edge.packing import pack_bundle, unpack_bundle
from mip_edge.spec import EmbedderSpec, Modality

FINGERPRINT = "cd" * 32
MANIFEST = Manifest(
    fingerprint=FINGERPRINT,
    model={"width": 48},
    specs={modality: EmbedderSpec(modality, 64, 32, 240, FINGERPRINT) for modality in Modality},
    camera=dict.fromkeys(Modality, "mean"),
    precisions={
        "fp32": Precision({modality: Graph(f"{modality.value}.onnx") for modality in Modality})
    },
    licence="Prüfung, ©",
    created_by="mip-edge test",
)
FILES = {"visible.onnx": b"v" * 512, "infrared.onnx": b"i" * 700, "weights.bin": b"w"}


def make_bundle(target: Path, files: dict[str, bytes]) -> Path:
    with write_bundle(target, overwrite=True) as draft:
        for name, content in files.items():
            (draft / name).write_bytes(content)
        seal(draft, MANIFEST)
    return target


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", FILES)


@pytest.fixture
def packed(bundle: Path) -> Path:
    pack_bundle(bundle, bundle.parent / "bundle.tar")
    return bundle.parent / "bundle.tar"


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    graphs=st.tuples(st.binary(max_size=1100), st.binary(max_size=1100)),
    others=st.dictionaries(
        st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", fullmatch=True).filter(
            lambda name: name != "manifest.json"
        ),
        st.one_of(st.binary(max_size=1100), st.sampled_from([bytes(512), bytes(1024), b"\0"])),
        max_size=4,
    ),
)
def test_packing_and_unpacking_gives_every_byte_back(
    tmp_path: Path, graphs: tuple[bytes, bytes], others: dict[str, bytes]
) -> None:
    # a file system that does not tell cases apart could not hold both names
    others = {name: content for name, content in others.items() if name == name.lower()}
    files = {**others, "visible.onnx": graphs[0], "infrared.onnx": graphs[1]}
    bundle = make_bundle(tmp_path / "bundle", files)
    pack_bundle(bundle, tmp_path / "b.tar", overwrite=True)
    unpack_bundle(tmp_path / "b.tar", tmp_path / "again", overwrite=True)
    assert contents(tmp_path / "again") == contents(bundle)
    pack_bundle(tmp_path / "again", tmp_path / "c.tar", overwrite=True)
    assert (tmp_path / "c.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


@pytest.mark.parametrize("mask", [0x01, 0x20, 0xFF])
def test_one_changed_byte_anywhere_is_noticed_and_leaves_nothing(packed: Path, mask: int) -> None:
    whole = packed.read_bytes()
    flipped, target = packed.with_name("flipped.tar"), packed.with_name("target")
    unnoticed = []
    # 89 is prime to 512, so that every part of headers, contents, padding and end is met
    for position in range(mask % 89, len(whole), 89):
        damaged = bytearray(whole)
        damaged[position] ^= mask
        flipped.write_bytes(damaged)
        words = ""
        try:
            unpack_bundle(flipped, target)
        except BundleError as error:
            words = str(error)
        if "flipped.tar" not in words or "\n" in words or target.exists():
            unnoticed.append(position)
    assert unnoticed == []
    assert sorted(path.name for path in packed.parent.iterdir()) == [
        "bundle", "bundle.tar", "flipped.tar",
    ]  # fmt: skip


def test_a_packed_bundle_cut_anywhere_is_refused(packed: Path) -> None:
    whole = packed.read_bytes()
    cut = packed.with_name("cut.tar")
    for length in [*range(0, len(whole), 101), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(BundleError, match="cut.tar (is truncated|does not end)"):
            unpack_bundle(cut, packed.with_name("target"))
    cut.write_bytes(whole + b"\0")
    with pytest.raises(BundleError, match="does not end where its last member ends"):
        unpack_bundle(cut, packed.with_name("target"))
    assert not packed.with_name("target").exists()


def test_the_bytes_of_a_packed_bundle_are_fixed(packed: Path) -> None:
    """On every machine, day and Python: a name, mode 644, and nothing of who packed it when."""
    header = packed.read_bytes()[:512]
    assert header[:100] == b"infrared.onnx".ljust(100, b"\0")
    assert header[100:148] == b"0000644\0" + 2 * b"0000000\0" + b"00000001274\0" + b"00000000000\0"
    assert header[156:257] == b"0" + bytes(100)
    assert header[257:265] == b"ustar\x0000"
    assert header[265:329] == bytes(64)
    assert header[329:512] == 2 * b"0000000\0" + bytes(167)
    assert packed.read_bytes()[-1024:] == bytes(1024)


def test_any_tar_can_read_a_packed_bundle(bundle: Path, packed: Path) -> None:
    with tarfile.open(packed) as archive:
        members = archive.getmembers()
        read = {member.name: archive.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    names = ["infrared.onnx", "manifest.json", "visible.onnx", "weights.bin"]
    assert [member.name for member in members] == names
    assert {(m.mode, m.uid, m.gid, m.mtime, m.type) for m in members} == {
        (0o644, 0, 0, 0, tarfile.REGTYPE)
    }
    assert read == contents(bundle)


def test_the_clock_and_the_rights_of_files_do_not_change_a_packed_bundle(
    bundle: Path, packed: Path
) -> None:
    os.utime(bundle / "weights.bin", (1, 1))
    (bundle / "weights.bin").chmod(0o600)
    pack_bundle(bundle, packed.with_name("later.tar"))
    assert packed.with_name("later.tar").read_bytes() == packed.read_bytes()


def members_of(packed: Path) -> dict[str, bytes]:
    """Header, content and padding of each member."""
    content = packed.read_bytes()
    with tarfile.open(packed) as archive:
        return {
            member.name: content[member.offset : member.offset_data + -(-member.size // 512) * 512]
            for member in archive.getmembers()
        }


def join(members: dict[str, bytes]) -> bytes:
    return b"".join(members[name] for name in sorted(members)) + bytes(1024)


def test_a_member_that_the_manifest_does_not_name_is_refused(packed: Path) -> None:
    other = make_bundle(packed.with_name("other"), {**FILES, "stray.bin": b"stray"})
    pack_bundle(other, packed.with_name("other.tar"))
    stray = members_of(packed.with_name("other.tar"))["stray.bin"]
    packed.write_bytes(join({**members_of(packed), "stray.bin": stray}))
    with pytest.raises(BundleError, match="holds stray.bin, which its manifest does not name"):
        unpack_bundle(packed, packed.with_name("target"))


@pytest.mark.parametrize("name", ["weights.bin", "manifest.json"])
def test_a_member_that_is_not_there_is_named(packed: Path, name: str) -> None:
    members = members_of(packed)
    del members[name]
    packed.write_bytes(join(members))
    with pytest.raises(BundleError, match=f"(lacks|holds no) {name}"):
        unpack_bundle(packed, packed.with_name("target"))


def test_a_member_of_another_size_is_named(packed: Path) -> None:
    other = make_bundle(packed.with_name("other"), {**FILES, "weights.bin": b"more"})
    pack_bundle(other, packed.with_name("other.tar"))
    larger = members_of(packed.with_name("other.tar"))["weights.bin"]
    packed.write_bytes(join({**members_of(packed), "weights.bin": larger}))
    with pytest.raises(BundleError, match="weights.bin of 4 bytes, its manifest says 1"):
        unpack_bundle(packed, packed.with_name("target"))


def test_members_twice_or_out_of_order_are_refused(packed: Path) -> None:
    members = members_of(packed)
    packed.write_bytes(members["infrared.onnx"] + join(members))
    with pytest.raises(BundleError, match="holds 'infrared.onnx' twice"):
        unpack_bundle(packed, packed.with_name("target"))
    packed.write_bytes(b"".join(members[name] for name in sorted(members)[::-1]) + bytes(1024))
    with pytest.raises(BundleError, match="out of order"):
        unpack_bundle(packed, packed.with_name("target"))


def foreign(name: str, kind: bytes = tarfile.REGTYPE, **fields: str) -> bytes:
    """A tar of one member as another program may write it."""
    member = tarfile.TarInfo(name)
    member.type = kind
    for key, value in fields.items():
        setattr(member, key, value)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(member)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (foreign("weights.bin", tarfile.SYMTYPE, linkname="/etc/passwd"), "is a symbolic link"),
        (foreign("weights.bin", tarfile.LNKTYPE, linkname="../x"), "is a hard link"),
        (foreign("weights.bin", tarfile.FIFOTYPE), "is a pipe"),
        (foreign("weights.bin", tarfile.CHRTYPE), "is a device"),
        (foreign("bundle", tarfile.DIRTYPE), "'bundle', which is a folder"),
        (foreign("n" * 120), "of the tar type b'L'"),
        (foreign("../weights.bin"), "'../weights.bin', which leads out of the bundle"),
        (foreign("/etc/weights.bin"), "'/etc/weights.bin', which leads out of the bundle"),
        (foreign("a\\b"), "which leads out of the bundle"),
        (foreign(".."), "'..', which leads out of the bundle"),
        (foreign("a\nb"), r"'a\\nb' with a header that mip-edge does not write"),
        (foreign("weights.bin", uname="root"), "with a header that mip-edge does not write"),
        (b"\x1f\x8b" + bytes(600), "is no packed bundle"),
        (b"", "is truncated: it ends before its first member"),
        (bytes(1024), "holds no manifest.json"),
    ],
)  # fmt: skip
def test_a_tar_of_another_kind_is_told(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "f.tar").write_bytes(content)
    with pytest.raises(BundleError, match=f"f.tar .*{expected}"):
        unpack_bundle(tmp_path / "f.tar", tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["f.tar"]


def test_a_bundle_that_is_not_whole_is_not_packed(bundle: Path) -> None:
    (bundle / "weights.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"weights.bin differs"):
        pack_bundle(bundle, bundle.parent / "b.tar")
    assert not (bundle.parent / "b.tar").exists()


def test_what_is_no_part_of_the_bundle_is_left_out_and_told(bundle: Path, packed: Path) -> None:
    (bundle / "notes.txt").write_text("mine", encoding="utf-8")
    report = pack_bundle(bundle, packed, overwrite=True)
    assert report.left_out == ("notes.txt",)
    assert sorted(report.files) == [
        "infrared.onnx", "manifest.json", "visible.onnx", "weights.bin",
    ]  # fmt: skip
    assert "notes.txt" not in members_of(packed)


def test_what_exists_stays_without_overwrite(bundle: Path, packed: Path) -> None:
    before = packed.read_bytes()
    with pytest.raises(OutputError, match=r"bundle.tar exists already.*--overwrite"):
        pack_bundle(bundle, packed)
    with pytest.raises(OutputError, match=r"is a folder"):
        pack_bundle(bundle, bundle, overwrite=True)
    with pytest.raises(OutputError, match=r"the folder .*nowhere does not exist"):
        pack_bundle(bundle, packed.parent / "nowhere" / "b.tar")
    with pytest.raises(OutputError, match=r"bundle exists already.*--overwrite"):
        unpack_bundle(packed, bundle)
    assert packed.read_bytes() == before


def test_a_damaged_file_leaves_the_older_bundle(bundle: Path, packed: Path) -> None:
    packed.write_bytes(packed.read_bytes()[:-2000])
    before = contents(bundle)
    with pytest.raises(BundleError, match="truncated"):
        unpack_bundle(packed, bundle, overwrite=True)
    assert contents(bundle) == before


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The disk takes no larger file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", {**FILES, "weights.bin": bytes(100_000)})
    pack_bundle(bundle, tmp_path / "bundle.tar")
    failures = []
    with files_of_at_most(50_000):
        for work, source, target in (
            (pack_bundle, bundle, tmp_path / "b.tar"),
            (unpack_bundle, tmp_path / "bundle.tar", tmp_path / "target"),
        ):
            try:
                work(source, target)
            except MipEdgeError as error:
                failures.append(error)
    assert [type(error) for error in failures] == [OutputError, OutputError]
    assert all("cannot be written: File too large" in str(error) for error in failures)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "bundle.tar"]


def test_the_bytes_copied_are_told_as_they_pass(bundle: Path, packed: Path) -> None:
    told: list[int] = []
    pack_bundle(bundle, packed, overwrite=True, advance=told.append)
    assert sum(told) == sum(len(content) for content in contents(bundle).values())
    told.clear()
    unpack_bundle(packed, packed.with_name("target"), advance=told.append)
    assert sum(told) == sum(map(len, FILES.values()))
    open_bundle(packed.with_name("target"))
