# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: what PhysicsNeMo wrote is read, what is damaged is named, and no code of a file runs."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import randomise, upstream_save, upstream_wrapper

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.networks.mdlus import Checkpoint, load_weights, read_mdlus, write_mdlus
from earth2_corrdiff.networks.preconditioned import build, create

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*legacy implementation", "ignore:gridtype", "ignore::DeprecationWarning", "ignore:Loading"
)
ARGS = {
    "img_resolution": [16, 24],
    "img_in_channels": 7,
    "img_out_channels": 2,
    "model_type": "SongUNetPosEmbd",
    "gridtype": "sinusoidal",
    "N_grid_channels": 4,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [8],
}
NAME = "EDMPrecondSuperResolution"
CONV = "model.enc.16x16_conv.weight"


def state(name: str = NAME, args: dict[str, Any] = ARGS) -> dict[str, torch.Tensor]:
    """Random weights of an architecture, under today's names."""
    return randomise(create(Checkpoint(name, args, {}, "new")), 3).state_dict()


def archive(path: Path, **members: bytes) -> Path:
    """A zip with the members of a good checkpoint, but for those given; ``b""`` leaves one out."""
    weights = io.BytesIO()
    torch.save(state(), weights)
    content = {
        "args": json.dumps({"__name__": NAME, "__module__": "m", "__args__": ARGS}).encode(),
        "metadata": json.dumps({"mdlus_file_version": "0.1.0"}).encode(),
        "model": weights.getvalue(),
        **members,
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in content.items():
            if data:
                target.writestr(f"{name}.pt" if name == "model" else f"{name}.json", data)
    return path


def as_tar(path: Path, *order: str) -> Path:
    """The same members as a tar, as old versions wrote it."""
    target = path.with_suffix(".tar")
    with zipfile.ZipFile(path) as source, tarfile.open(target, "w") as tar:
        for name in order:
            source.extract(name, path.parent)
            tar.add(path.parent / name, f"./{name}")
    return target


def saved(thing: object) -> bytes:
    stream = io.BytesIO()
    torch.save(thing, stream)
    return stream.getvalue()


# what PhysicsNeMo writes


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_reads_what_upstream_writes(tmp_path: Path, kind: str) -> None:
    theirs = upstream_wrapper(NAME, ARGS, 5)
    path = upstream_save(theirs, tmp_path / "net.mdlus")
    if kind == "tar":
        path = as_tar(path, "args.json", "metadata.json", "model.pt")
        assert zipfile.is_zipfile(path)  # since it ends in one
    checkpoint = read_mdlus(path)
    assert checkpoint.name == NAME and checkpoint.source == str(path)
    assert checkpoint.args["channel_mult"] == [1, 2] and checkpoint.args["img_resolution"] == [16, 24]
    assert read_mdlus(path.read_bytes(), "bytes").state.keys() == checkpoint.state.keys()
    ours = build(checkpoint)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


@pytest.mark.parametrize("name", [NAME, "EDMPrecondSR", "UNet", "CorrDiffRegressionUNet"])
def test_upstream_reads_what_is_written(tmp_path: Path, name: str) -> None:
    from physicsnemo import Module

    args = {**ARGS, **({"img_channels": 2} if name == "EDMPrecondSR" else {})}
    home = "models.diffusion_unets.unet" if "UNet" in name else "diffusion.preconditioners.legacy"
    weights = state(name, args)
    write_mdlus(tmp_path / "net.mdlus", name, f"physicsnemo.{home}", args, weights)
    theirs = Module.from_checkpoint(str(tmp_path / "net.mdlus"))
    assert type(theirs).__name__ == name
    for key, value in theirs.state_dict().items():
        assert torch.equal(weights[key], value), key


def test_writing_is_reproducible_and_leaves_no_partial_file(tmp_path: Path) -> None:
    for name in ("a.mdlus", "b.mdlus"):
        write_mdlus(tmp_path / name, NAME, "m", ARGS, state())
    assert (tmp_path / "a.mdlus").read_bytes() == (tmp_path / "b.mdlus").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mdlus", "b.mdlus"]
    read = read_mdlus(tmp_path / "a.mdlus")
    assert read.args == ARGS and all(torch.equal(read.state[k], v) for k, v in state().items())


# damaged files


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"net\.mdlus"):
        read_mdlus(tmp_path / "net.mdlus")


@pytest.mark.parametrize("kind", ["zip", "tar", "text", "empty"])
def test_truncated_file(tmp_path: Path, kind: str) -> None:
    path = archive(tmp_path / "net.mdlus")
    if kind == "tar":
        path = as_tar(path, "model.pt", "args.json", "metadata.json")
        assert read_mdlus(path).args == ARGS
    data = path.read_bytes()
    path.write_bytes({"text": b"no archive at all", "empty": b""}.get(kind, data[: len(data) // 2]))
    with pytest.raises(InputError, match=r"net\.\w+ .*(complete|damaged|part)"):
        read_mdlus(path)


@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_a_flipped_byte_is_noticed(tmp_path: Path, where: float) -> None:
    path = archive(tmp_path / "net.mdlus")
    with zipfile.ZipFile(path) as source:
        member = source.getinfo("model.pt")
    data = bytearray(path.read_bytes())
    data[member.header_offset + 50 + int(where * (member.compress_size - 60))] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"net\.mdlus"):
        read_mdlus(path)


@pytest.mark.parametrize("member", ["args", "model"])
def test_missing_member(tmp_path: Path, member: str) -> None:
    with pytest.raises(InputError, match=member):
        read_mdlus(archive(tmp_path / "net.mdlus", **{member: b""}))


@pytest.mark.parametrize(
    "args", [b"{", b"[]", b'{"__name__": "UNet"}', b'{"__name__": "UNet", "__args__": 3}', b"\xff\xfe"]
)
def test_damaged_arguments(tmp_path: Path, args: bytes) -> None:
    with pytest.raises(InputError, match=r"net\.mdlus is damaged"):
        read_mdlus(archive(tmp_path / "net.mdlus", args=args))


# files that want more than to be read


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.target, "the code of a checkpoint was run"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", ["torch", "legacy torch", "pickle"])
def test_pickled_code_is_refused_and_does_not_run(tmp_path: Path, protocol: str) -> None:
    import pickle

    bomb = {**state(), "extra": Bomb(tmp_path / "exploded")}
    stream = io.BytesIO()
    if protocol == "pickle":
        pickle.dump(bomb, stream)
    else:
        torch.save(bomb, stream, _use_new_zipfile_serialization=protocol == "torch")
    path = archive(tmp_path / "net.mdlus", model=stream.getvalue())
    with pytest.raises(InputError, match=r"net\.mdlus.*(more than weights|damaged)"):
        read_mdlus(path)
    assert not (tmp_path / "exploded").exists()
    pickle.loads(pickle.dumps(Bomb(tmp_path / "exploded")))  # it would have
    assert (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "thing", [[1, 2], torch.zeros(3), {**state(), CONV: "text"}, {**state(), 7: torch.zeros(3)}, {}]
)
def test_anything_but_tensors_by_name_is_refused(tmp_path: Path, thing: object) -> None:
    with pytest.raises(InputError, match=r"net\.mdlus"):
        build(read_mdlus(archive(tmp_path / "net.mdlus", model=saved(thing))))


def test_a_module_in_place_of_its_weights_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "net.mdlus", model=saved(torch.nn.Linear(2, 2)))
    with pytest.raises(InputError, match="more than weights"):
        read_mdlus(path)


# weights that do not fit


def refusal(change: dict[str, torch.Tensor | None]) -> str:
    """What is said when these entries of a state dict are changed, or left out (None)."""
    weights = {**state(), **{k: v for k, v in change.items() if v is not None}}
    weights = {k: v for k, v in weights.items() if change.get(k, v) is not None}
    with pytest.raises(InputError) as raised:
        build(Checkpoint(NAME, ARGS, weights, "net.mdlus"))
    return str(raised.value)


def test_missing_weights_are_named() -> None:
    text = refusal({CONV: None, "model.map_layer1.bias": None})
    assert "net.mdlus" in text and "missing" in text and CONV in text and "model.map_layer1.bias" in text
    assert "unexpected" not in text and "misshapen" not in text and "\n" not in text


def test_unexpected_weights_are_named() -> None:
    text = refusal({"model.enc.16x16_block7.conv0.weight": torch.zeros(1)})
    assert "unexpected" in text and "16x16_block7.conv0.weight" in text and "missing" not in text


def test_misshapen_weights_are_named_with_both_shapes() -> None:
    text = refusal({CONV: torch.zeros(8, 12, 3, 3)})
    assert "misshapen" in text and CONV in text and "(8, 12, 3, 3)" in text and "(8, 9, 3, 3)" in text


@pytest.mark.slow
def test_many_faults_are_counted() -> None:
    """Weights of a wider network: five are named."""
    weights = state(args={**ARGS, "model_channels": 16})
    with pytest.raises(InputError, match=r"misshapen: (.*\) instead of \(.*){5} and \d+ more$"):
        build(Checkpoint(NAME, ARGS, weights, "net.mdlus"))


# names of older versions


def equal_networks(weights: dict[str, torch.Tensor], args: dict[str, Any] = ARGS, name: str = NAME) -> None:
    ours, want = (
        build(Checkpoint(name, args, weights, "old")),
        build(Checkpoint(name, args, state(name), "new")),
    )
    for key, value in want.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key


@pytest.mark.slow
def test_attention_under_its_old_names(tmp_path: Path) -> None:
    old = {}
    for key, value in state().items():
        for new, before in {".attn.norm.": ".norm2.", ".attn.qkv.": ".qkv.", ".attn.proj.": ".proj."}.items():
            key = key.replace(new, before)
        old[key] = value
    assert any(".norm2." in key for key in old) and not any(".attn." in key for key in old)
    equal_networks(old)
    # upstream migrates them in the same way
    theirs = upstream_wrapper(NAME, ARGS, 0)
    theirs.load_state_dict(old, strict=False)
    assert all(torch.equal(theirs.state_dict()[k], v) for k, v in state().items() if "freqs" not in k)


@pytest.mark.slow
def test_frequencies_and_position_features_may_be_stored_or_not() -> None:
    stored = state()
    lean = {k: v for k, v in stored.items() if not k.endswith("freqs")}
    assert len(lean) == len(stored) - 1
    equal_networks(lean)
    equal_networks({**stored, "model.pos_embd": torch.randn(4, 16, 24)})


def test_learnable_position_features_are_weights() -> None:
    args = {**ARGS, "gridtype": "learnable"}
    weights = state(args=args)
    net = build(Checkpoint(NAME, args, weights, "net.mdlus"))
    assert torch.equal(net.state_dict()["model.pos_embd"], weights["model.pos_embd"])
    del weights["model.pos_embd"]
    with pytest.raises(InputError, match=r"missing: model\.pos_embd"):
        build(Checkpoint(NAME, args, weights, "net.mdlus"))


@pytest.mark.parametrize("leftovers", [False, True])
def test_apex_norms(leftovers: bool) -> None:
    """Apex's norm keeps its weights under ``gn``; some versions left unused ones beside them."""
    apex = {}
    for key, value in state().items():
        stem, _, leaf = key.rpartition(".")
        if "norm" in stem.rpartition(".")[2]:
            if leftovers:
                apex[key] = torch.full_like(value, 7.0)
            key = f"{stem}.gn.{leaf}"
        apex[key] = value
    assert sum(".gn." in key for key in apex) > 20
    equal_networks(apex, {**ARGS, "use_apex_gn": True})


def test_half_precision_weights_are_loaded_as_float32() -> None:
    halves = {k: v.half() for k, v in state().items()}
    net = build(Checkpoint(NAME, ARGS, halves, "half"))
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in net.parameters())
    assert torch.equal(net.state_dict()[CONV], halves[CONV].float())


def test_load_weights_leaves_the_network_alone_when_it_refuses() -> None:
    net = create(Checkpoint(NAME, ARGS, {}, "new"))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(InputError, match="missing"):
        load_weights(net, Checkpoint(NAME, ARGS, {CONV: torch.zeros(8, 9, 3, 3)}, "net.mdlus"))
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


# what is imported


@pytest.mark.process
def test_reading_a_checkpoint_does_not_import_physicsnemo(tmp_path: Path) -> None:
    program = (
        "import sys, earth2_corrdiff;"
        "assert not any(m in sys.modules for m in ('torch', 'earth2studio', 'xarray'));"
        "from earth2_corrdiff.networks.mdlus import read_mdlus;"
        "from earth2_corrdiff.networks.preconditioned import build;"
        f"build(read_mdlus({str(archive(tmp_path / 'net.mdlus'))!r}));"
        "assert not any(m.partition('.')[0] in ('physicsnemo', 'earth2studio') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
