"""Hostile and damaged checkpoints: each is refused with the file's name, and nothing in them runs."""

from __future__ import annotations

import builtins
import contextlib
import gzip
import json
import os
import pickle
import struct
import subprocess
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.errors import EdgesegError, brief
from edgeseg.network.allowlist import ALLOWED, CONSTRUCTORS, STORAGES
from edgeseg.network.checkpoint import load_checkpoint
from edgeseg.network.pickles import PickleReader, Record
from edgeseg.network.torchfile import TorchFile


def write_zip(path: Path, pickled: bytes, members: dict[str, bytes] | None = None, **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as z:
        z.writestr("archive/data.pkl", pickled)
        for name, data in (members or {}).items():
            z.writestr(f"archive/{name}", data)
    return path


def read(pickled: bytes) -> Any:
    return PickleReader(Path("x.pt"), ALLOWED.__contains__, CONSTRUCTORS, STORAGES).read(pickled)


class Calls:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.args


def harmful(marker: Path) -> dict[str, bytes]:
    command, code = f"touch {marker}", f"open({str(marker)!r}, 'w')"
    text = str(marker).encode()
    short = lambda s: b"\x8c" + bytes([len(s)]) + s  # noqa: E731
    dumps = {
        "os.system": Calls(os.system, command),
        "builtins.eval": Calls(eval, code),
        "builtins.exec": Calls(exec, code),
        "builtins.getattr": Calls(getattr, Calls(getattr, "x", "upper"), "__self__"),
        "subprocess.Popen": Calls(subprocess.Popen, ["touch", str(marker)]),
        "torch.load": Calls(torch.load, str(marker)),
        "torch.hub.load": Calls(torch.hub.load, "a/b", "c"),
        "builtins.open": Calls(builtins.open, str(marker), "w"),
        "builtins.__import__": Calls(builtins.__import__, "os"),
        "in a list in a dict": {"model": [Calls(os.system, command)]},
    }
    made = {name: pickle.dumps(value, protocol=p) for name, value in dumps.items() for p in (2,)}
    made |= {f"{name}, protocol 4": pickle.dumps(value, protocol=4) for name, value in dumps.items()}
    made |= {f"{name}, protocol 0": pickle.dumps(value, protocol=0) for name, value in dumps.items()}
    made["dotted name"] = b"\x80\x04" + short(b"collections") + short(b"OrderedDict.__init__.__globals__") + b"\x93\x29\x52."
    made["space in the name"] = b"\x80\x02ccollections\nOrderedDict x\n."
    made["object instruction"] = b"\x80\x02(cposix\nsystem\n" + b"X" + struct.pack("<I", len(text)) + text + b"o."
    made["instance instruction"] = b"\x80\x02(X" + struct.pack("<I", len(text)) + text + b"iposix\nsystem\n."
    made["extension registry"] = b"\x80\x02\x82\x01."
    made["text persistent id"] = b"\x80\x02Pmodule\n."
    made["out-of-band buffer"] = b"\x80\x05\x97."
    made["call of a result"] = b"\x80\x02ccollections\nOrderedDict\n)R)R."
    made["call of a record"] = b"\x80\x02cultralytics.nn.modules.conv\nConv\n)\x81)R."
    made["keywords"] = b"\x80\x04" + b"cultralytics.nn.modules.conv\nConv\n)}" + short(b"a") + b"K\x01s\x92."
    made["state of a class"] = b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb."
    made["state of a function"] = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb."
    made["items of a class"] = b"\x80\x02ccollections\nOrderedDict\nK\x01K\x02s."
    made["appends to a tuple"] = b"\x80\x02)K\x01a."
    return made


@pytest.mark.parametrize("kind", harmful(Path("marker")))
def test_harmful_pickles_are_refused(kind: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = write_zip(tmp_path / "evil.pt", harmful(marker)[kind])
    with pytest.raises(EdgesegError) as error:
        load_checkpoint(path)
    assert "evil.pt" in str(error.value) and "refused" in str(error.value) and error.value.hint
    assert "nothing of it was run" in str(error.value)
    if kind in ("os.system", "builtins.eval", "subprocess.Popen"):
        assert kind.rpartition(".")[2] in error.value.what
    assert not marker.exists()


@pytest.mark.parametrize(
    "pickled",
    {
        "empty": b"",
        "no end": pickle.dumps([1, 2], 2)[:-1],
        "end without value": b"\x80\x02.",
        "mark as value": b"\x80\x02(.",
        "no mark": b"\x80\x02]e.",
        "unknown opcode": b"\x80\x02\xff.",
        "text of 4 GB": b"\x80\x02X\xff\xff\xff\xff.",
        "bytes of 2**63": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        "absent memo": b"\x80\x02h\x07.",
        "list as key": b"\x80\x02}]K\x01s.",
        "nested key": b"\x80\x02}" + b")" + b"\x85" * 20_000 + b"K\x01s.",
        "tensor without storage": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        "parameter without tensor": b"\x80\x02ctorch._utils\n_rebuild_parameter\nK\x01\x85R.",
        "ordered dict of numbers": b"\x80\x02ccollections\nOrderedDict\n]K\x01a\x85R.",
        "strange encoding": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.",
        "scalar of nothing": b"\x80\x02cnumpy.core.multiarray\nscalar\n)R.",
        "typed tensor": b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(ctorch\nSize\nctorch\nTensor\n)NtR.",
    }.items(),
    ids=lambda item: item[0],
)
def test_damaged_pickles_are_reported(pickled: tuple[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match="damaged") as error:
        load_checkpoint(write_zip(tmp_path / "bad.pt", pickled[1]))
    assert "bad.pt" in str(error.value)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_end_in_data_or_an_error(data: bytes) -> None:
    with contextlib.suppress(EdgesegError):
        read(b"\x80\x02" + data + b".")


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner).map(OrderedDict)
        | st.sets(st.integers() | st.text())
    ),
    max_leaves=20,
)


@settings(max_examples=80, deadline=None)
@given(plain, st.integers(0, 5))
def test_plain_data_is_read_as_python_reads_it(value: Any, protocol: int) -> None:
    """Against the standard unpickler; protocols 0 and 1 store bytes and sets through calls that are on the list too."""
    pickled = pickle.dumps(value, protocol=protocol)
    try:
        found = read(pickled)
    except EdgesegError as e:
        assert protocol < 3 and ("copyreg" in e.what or "builtins" in e.what)
        return
    assert found == value


def test_records_keep_what_was_stored() -> None:
    record = read(b"\x80\x02cdatetime\ndatetime\nK\x01K\x02\x86R}X\x01\x00\x00\x00aK\x05sb.")
    assert isinstance(record, Record) and record.short == "datetime" and record.args == (1, 2) and record.state == {"a": 5}


def tensor_pickle(numel: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, key: str = "0") -> bytes:
    def put(value: Any) -> bytes:
        if isinstance(value, tuple):
            return b"(" + b"".join(put(v) for v in value) + b"t"
        if isinstance(value, str):
            return b"X" + struct.pack("<I", len(value)) + value.encode()
        raw = value.to_bytes(16, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw

    storage = b"(" + put("storage") + b"ctorch\nFloatStorage\n" + put(key) + put("cpu") + put(numel) + b"tQ"
    args = b"(" + storage + put(offset) + put(size) + put(stride) + b"\x89Nt"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + args + b"R."


@pytest.mark.parametrize(
    "claim",
    [
        {"numel": 2**62, "size": (2**31, 2**31), "stride": (2**31, 1)},
        {"numel": 4, "size": (5,), "stride": (1,)},
        {"numel": 4, "size": (2**40,), "stride": (0,)},
        {"numel": 4, "size": (4,), "stride": (1,), "offset": 1},
        {"numel": 4, "size": (1,), "stride": (2**100,)},
        {"numel": 3, "size": (3,), "stride": (1,)},
        {"numel": 4, "size": (4,), "stride": (1,), "key": "../../../etc/passwd"},
        {"numel": 4, "size": (0, 2**100), "stride": (1, 1)},
        {"numel": 4, "size": (0, 2**61, 2**61), "stride": (1, 1, 1)},
    ],
)
def test_absurd_tensors_allocate_nothing(claim: dict[str, Any], tmp_path: Path) -> None:
    file = TorchFile(write_zip(tmp_path / "huge.pt", tensor_pickle(**claim), {"data/0": bytes(16)}))
    with pytest.raises(EdgesegError, match=r"huge\.pt.*damaged"):
        file.tensor(file.read())


def test_an_honest_tensor(tmp_path: Path) -> None:
    data = struct.pack("<6f", *range(6))
    file = TorchFile(write_zip(tmp_path / "t.pt", tensor_pickle(6, (3, 2), (1, 3)), {"data/0": data}))
    assert torch.equal(file.tensor(file.read()), torch.arange(6.0).reshape(2, 3).T)


@pytest.mark.parametrize("claim", [{"numel": -1, "size": (1,), "stride": (1,)}, {"numel": 1, "size": (-1,), "stride": (1,)}])
def test_negative_claims(claim: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match="damaged"):
        TorchFile(write_zip(tmp_path / "t.pt", tensor_pickle(**claim))).read()


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    def fails(name: str, words: str) -> None:
        with pytest.raises(EdgesegError, match=words) as error:
            load_checkpoint(tmp_path / name)
        assert name in str(error.value) and error.value.hint

    (tmp_path / "empty.pt").write_bytes(b"")
    fails("empty.pt", "empty")
    (tmp_path / "text.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    fails("text.pt", "no checkpoint")
    torch.save({"a": torch.ones(1)}, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    fails("legacy.pt", "before 1.6")
    torch.save({"a": 1}, tmp_path / "nothing.pt")
    fails("nothing.pt", "no network")
    torch.save([1, 2], tmp_path / "list.pt")
    fails("list.pt", "no network")
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), str(tmp_path / "script.pt"))
    fails("script.pt", "TorchScript")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as z:
        z.writestr("hello.txt", "x")
    fails("zip.pt", "no checkpoint")
    with zipfile.ZipFile(tmp_path / "sent.pt", "w") as z:
        z.write(tmp_path / "nothing.pt", "best.pt")
    with pytest.raises(EdgesegError, match=r"no checkpoint.*Unpack it, and give 'best.pt'"):
        load_checkpoint(tmp_path / "sent.pt")
    (tmp_path / "gzip.pt").write_bytes(gzip.compress((tmp_path / "nothing.pt").read_bytes()))
    fails("gzip.pt", "gzip")
    content = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(content)) + content + bytes(4))
    fails("w.safetensors", "safetensors file")
    write_zip(tmp_path / "big.pt", b"N.", {"byteorder": b"big"})
    fails("big.pt", "big-endian")
    write_zip(tmp_path / "bomb.pt", bytes(50_000_000), compression=zipfile.ZIP_DEFLATED)
    fails("bomb.pt", "compressed")
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(EdgesegError, match="folder"):
        load_checkpoint(tmp_path / "folder.pt")


def test_every_truncation_is_reported(tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "whole.pt", tensor_pickle(4, (4,), (1,)), {"data/0": bytes(16)}).read_bytes()
    cut = tmp_path / "cut.pt"
    for length in range(0, len(whole), 7):
        cut.write_bytes(whole[:length])
        with pytest.raises(EdgesegError, match=r"cut\.pt"):
            load_checkpoint(cut)


def test_flipped_bits_are_reported(tmp_path: Path) -> None:
    """A changed byte in a member fails its checksum."""
    path = write_zip(tmp_path / "t.pt", tensor_pickle(4, (4,), (1,)), {"data/0": b"abcd" * 4})
    data = bytearray(path.read_bytes())
    data[data.index(b"abcdabcd")] ^= 1
    path.write_bytes(data)
    file = TorchFile(path)
    with pytest.raises(EdgesegError, match="damaged"):
        file.tensor(file.read())


def test_two_parts_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.pt", pickle.dumps({}))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as z:
        z.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    with pytest.raises(EdgesegError, match=r"one name|no checkpoint"):
        TorchFile(path)


def test_a_path_of_nested_parts_is_refused() -> None:
    doubled: Any = "x"
    for _ in range(60):
        doubled = [doubled, doubled]
    with pytest.raises(EdgesegError, match="no path"):
        # In protocol 2 a name has no length in front, so that what Python 3.13 calls it can be written as all others do.
        read(pickle.dumps(Calls(Path, doubled), 2).replace(b"pathlib._local", b"pathlib"))


def test_a_nested_value_takes_no_room_in_a_message() -> None:
    doubled: Any = "x"
    for _ in range(60):
        doubled = [doubled, doubled]
    assert brief(doubled) == "a list" and len(brief("y" * 10_000)) < 80
    assert brief(10**5000).startswith("a whole number of")
