"""Checkpoints of the usual formats are read without running code of theirs; what cannot be read is named."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn

from metricwatch.api import Checkpoint, InputError, TemporaryError

WEIGHTS = {"0.weight": torch.arange(12.0).reshape(3, 4), "0.bias": torch.tensor([1.0, 2.0, 3.0])}


class Evil:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def opened(path: Path, name: str = "") -> Checkpoint:
    return Checkpoint(path=str(path), name=name)


def same(found: Mapping[str, object], expected: Mapping[str, torch.Tensor] = WEIGHTS) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def save_distributed(folder: Path, tree: dict[str, object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(tree, checkpoint_id=folder, no_dist=True)


# --- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["as now", "as before torch 1.6"])
def test_a_file_of_torch_save_is_read_whatever_it_is_called(tmp_path, zipped):
    tree = {"model": WEIGHTS, "step": 7, "config": {"lr": 1e-3, "betas": (0.5, 0.9)}}
    torch.save(tree, tmp_path / "pin-000001", _use_new_zipfile_serialization=zipped)
    found = opened(tmp_path / "pin-000001").tree()
    assert same(found["model"])
    assert (found["step"], found["config"]) == (7, {"lr": 1e-3, "betas": (0.5, 0.9)})


def test_a_safetensors_file_is_read_whatever_it_is_called(tmp_path):
    save_file(WEIGHTS, tmp_path / "pin-000001")
    assert same(opened(tmp_path / "pin-000001").tree())


def test_what_scripts_save_beside_the_weights_does_not_hinder(tmp_path):
    tree = {
        "model": WEIGHTS,
        "args": argparse.Namespace(size=256, out=Path("runs")),
        "best": np.float64(3.5),
        "history": np.arange(5),
        "optimizer": torch.optim.Adam(nn.Linear(2, 2).parameters()).state_dict(),
        "random": np.random.RandomState(1).get_state(),
    }
    torch.save(tree, tmp_path / "last.pt")
    found = opened(tmp_path / "last.pt").tree()
    assert same(found["model"])
    assert found["args"].size == 256


def test_an_object_that_could_run_code_is_named_and_never_made(tmp_path):
    torch.save({"model": WEIGHTS, "extra": Evil(tmp_path / "mark")}, tmp_path / "last.pt")
    with pytest.raises(InputError, match=r"last\.pt holds an object of \w+\.mkdir.*torch\.save.*state_dict"):
        opened(tmp_path / "last.pt").tree()
    assert not (tmp_path / "mark").exists()


def test_a_whole_module_is_refused_by_the_name_of_its_class(tmp_path):
    torch.save(nn.Linear(4, 3), tmp_path / "last.pt")
    with pytest.raises(InputError, match=r"last\.pt holds an object of torch\.nn\.modules\.linear\.Linear"):
        opened(tmp_path / "last.pt").tree()


def test_programs_are_sent_to_their_samplers(tmp_path):
    module = nn.Linear(4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module), str(tmp_path / "script.pt"))
        torch.export.save(torch.export.export(module, (torch.zeros(1, 4),)), tmp_path / "exported.pt2")
    with pytest.raises(InputError, match=r"script\.pt is a TorchScript program.*use: torchscript"):
        opened(tmp_path / "script.pt").tree()
    with pytest.raises(InputError, match=r"exported\.pt2 is a program of torch\.export.*use: torch_export"):
        opened(tmp_path / "exported.pt2").tree()


@pytest.mark.parametrize("kind", ["torch", "legacy", "safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.05, 0.5, 0.95])
def test_a_file_that_was_cut_short_is_named(tmp_path, kind, kept):
    path = tmp_path / "last"
    if kind == "safetensors":
        save_file(WEIGHTS, path)
    else:
        torch.save({"model": WEIGHTS}, path, _use_new_zipfile_serialization=kind == "torch")
    os.truncate(path, int(kept * path.stat().st_size))
    with pytest.raises(InputError, match=r"step_5\.pt .*(is empty|cut short|damaged)"):
        opened(path, "step_5.pt").tree()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>404</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n rest", "an HDF5 file"),
        (b"\0" * 4096, "neither a file of torch.save nor safetensors"),
        (b"step 100\n", "neither a file of torch.save nor safetensors"),
        (pickle.dumps(3.5), "is damaged, or holds objects|cut short or damaged"),
    ],
)
def test_a_file_of_another_kind_is_told_by_its_content(tmp_path, content, said):
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(InputError, match=rf"last\.pt .*({said})"):
        opened(tmp_path / "last.pt").tree()


def test_other_archives_are_told_by_what_they_hold(tmp_path):
    with zipfile.ZipFile(tmp_path / "last.pt", "w") as archive:
        archive.writestr("word/document.xml", "text")
    with pytest.raises(InputError, match=r"archive, and not one of torch\.save: it holds word/document\.xml"):
        opened(tmp_path / "last.pt").tree()


def test_a_tree_that_is_no_dictionary_is_refused(tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "last.pt")
    with pytest.raises(InputError, match=r"last\.pt holds one list, not weights by name"):
        opened(tmp_path / "last.pt").tree()


def test_a_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(InputError, match=r"last\.pt cannot be read: No such file"):
        opened(tmp_path / "last.pt").tree()


def test_a_disk_that_does_not_answer_may_answer_later():
    # Reading one's own memory from address 0 on fails as a broken disk does, with EIO.
    with pytest.raises(TemporaryError, match=r"step_5\.pt cannot be read now: Input/output error"):
        opened(Path("/proc/self/mem"), "step_5.pt").tree()


# --- directories -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin"])
def test_a_hugging_face_folder_is_read_by_the_usual_names(tmp_path, name):
    save = save_file if name.endswith("safetensors") else torch.save
    save(WEIGHTS, tmp_path / name)
    torch.save({"state": torch.zeros(2)}, tmp_path / "optimizer.bin")
    torch.save({"other": torch.zeros(2)}, tmp_path / "something_else.pt")
    (tmp_path / "config.json").write_text("{}")
    assert same(opened(tmp_path).weights())


@pytest.mark.parametrize(
    ("first", "second", "index"),
    [
        ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"),
        ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"),
    ],
)
def test_shards_are_put_together_as_their_index_says(tmp_path, first, second, index):
    save = save_file if first.endswith("safetensors") else torch.save
    save({"0.weight": WEIGHTS["0.weight"]}, tmp_path / first)
    save({"0.bias": WEIGHTS["0.bias"]}, tmp_path / second)
    (tmp_path / index).write_text(json.dumps({"weight_map": {"0.weight": first, "0.bias": second}}))
    assert same(opened(tmp_path).tree())
    (tmp_path / second).unlink()
    with pytest.raises(InputError, match=rf"step_5 has no {second}.*a shard is missing"):
        opened(tmp_path, "step_5").tree()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"weight_map": {"a": "../outside.safetensors"}}', "does not lie beside it"),
        ('{"weight_map": {"a": "model-1.safetensors"}}', "names weights that no shard holds: a"),
    ],
)
def test_a_wrong_index_of_shards_is_named(tmp_path, content, said):
    save_file(WEIGHTS, tmp_path / "model-1.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(InputError, match=rf"model\.safetensors\.index\.json.*{said}"):
        opened(tmp_path).tree()


def test_the_one_weights_file_of_a_folder_is_taken(tmp_path):
    torch.save({"state_dict": WEIGHTS}, tmp_path / "epoch=3-step=100.ckpt")
    (tmp_path / "hparams.yaml").write_text("lr: 1")
    torch.save({}, tmp_path / "optim_states.pt")
    assert same(opened(tmp_path).weights())


def test_a_folder_of_many_weights_files_is_refused_with_their_names(tmp_path):
    for name in ("a.pt", "b.safetensors"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"step_5 holds 2 files of weights \(a\.pt, b\.safetensors\)"):
        opened(tmp_path, "step_5").tree()


@pytest.mark.parametrize(("files", "said"), [([], "it is empty"), (["notes.txt"], r"it holds notes\.txt")])
def test_a_folder_without_weights_is_named(tmp_path, files, said):
    for name in files:
        (tmp_path / name).write_text("")
    with pytest.raises(InputError, match=rf"step_5 has no weights that we read: {said}"):
        opened(tmp_path, "step_5").tree()


def test_a_pipeline_gives_a_key_for_each_part(tmp_path):
    for part in ("unet", "vae"):
        (tmp_path / part).mkdir()
        save_file({f"{part}.bias": torch.zeros(2)}, tmp_path / part / "diffusion_pytorch_model.safetensors")
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text("{}")
    assert list(opened(tmp_path).tree()) == ["unet", "vae"]
    assert list(opened(tmp_path).weights("vae")) == ["vae.bias"]


# --- distributed checkpoints -------------------------------------------------------------------------------


def test_a_distributed_checkpoint_is_read_without_a_process_group(tmp_path):
    tree = {"model": WEIGHTS, "optimizer": {"state": [{"step": torch.ones(())}]}, "step": 7}
    save_distributed(tmp_path / "step_7", tree)
    found = opened(tmp_path / "step_7").tree()
    assert same(found["model"])
    assert found["step"] == 7
    assert same(opened(tmp_path / "step_7").weights())


def test_pieces_of_a_distributed_tensor_are_put_where_they_belong(tmp_path):
    from torch.distributed.checkpoint import filesystem, metadata

    whole = torch.arange(20.0).reshape(5, 4)
    parts = {0: whole[:3].clone(), 3: whole[3:].clone()}
    stored, chunks = {}, []
    for row, part in parts.items():
        torch.save(part, tmp_path / f"__{row}_0.distcp")
        place = torch.Size([row, 0])
        info = filesystem._StorageInfo(f"__{row}_0.distcp", 0, (tmp_path / f"__{row}_0.distcp").stat().st_size)
        stored[metadata.MetadataIndex("weight", place)] = info
        chunks.append(metadata.ChunkStorageMetadata(place, part.shape))
    tensor = metadata.TensorStorageMetadata(metadata.TensorProperties(), whole.shape, chunks)
    described = metadata.Metadata({"weight": tensor}, storage_data=stored)
    (tmp_path / ".metadata").write_bytes(pickle.dumps(described))
    assert torch.equal(opened(tmp_path).weights()["weight"], whole)
    del stored[metadata.MetadataIndex("weight", torch.Size([3, 0]))]
    (tmp_path / ".metadata").write_bytes(pickle.dumps(described))
    with pytest.raises(InputError, match="weight is not whole: 12 of 20"):
        opened(tmp_path).tree()
    tensor.size = torch.Size([10**9, 4])
    (tmp_path / ".metadata").write_bytes(pickle.dumps(described))
    with pytest.raises(InputError, match="more than the files hold"):
        opened(tmp_path).tree()


def test_the_metadata_of_a_distributed_checkpoint_run_no_code(tmp_path):
    save_distributed(tmp_path / "step_7", {"model": WEIGHTS})
    (tmp_path / "step_7" / ".metadata").write_bytes(pickle.dumps({"state_dict_metadata": Evil(tmp_path / "mark")}))
    with pytest.raises(InputError, match=r"step_7/\.metadata.*mkdir, which has no place"):
        opened(tmp_path / "step_7").tree()
    assert not (tmp_path / "mark").exists()


def test_the_values_of_a_distributed_checkpoint_run_no_code(tmp_path):
    save_distributed(tmp_path / "step_7", {"model": WEIGHTS, "extra": Evil(tmp_path / "mark")})
    found = opened(tmp_path / "step_7").tree()
    assert found["extra"] is None
    assert same(found["model"])
    assert not (tmp_path / "mark").exists()


def test_a_missing_or_short_shard_of_a_distributed_checkpoint_is_named(tmp_path):
    save_distributed(tmp_path / "step_7", {"model": WEIGHTS})
    shard = tmp_path / "step_7" / "__0_0.distcp"
    os.truncate(shard, shard.stat().st_size // 2)
    with pytest.raises(InputError, match=r"step_7/__0_0\.distcp is cut short"):
        opened(tmp_path / "step_7").tree()
    shard.unlink()
    with pytest.raises(InputError, match=r"step_7 has no __0_0\.distcp.*a shard is missing"):
        opened(tmp_path / "step_7").tree()


@pytest.mark.parametrize("kept", [0, 10, 300])
def test_damaged_metadata_of_a_distributed_checkpoint_are_named(tmp_path, kept):
    save_distributed(tmp_path / "step_7", {"model": WEIGHTS})
    os.truncate(tmp_path / "step_7" / ".metadata", kept)
    with pytest.raises(InputError, match=r"step_7/\.metadata is cut short or damaged"):
        opened(tmp_path / "step_7").tree()
