"""What is no checkpoint is told apart by its content, and nothing but a regular file is opened."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from harness.errors import UserError
from harness.weights import formats
from helpers.weight_files import legacy_bytes

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "web page.*log in"),
        (b"\xef\xbb\xbf \n<HTML><head></head></HTML>", "web page"),
        (LFS, "Git LFS pointer.*git lfs pull"),
        (b'{"error": "quota exceeded"}', "a text.*quota exceeded"),
        (b"\x1f\x8b\x08\x00" + bytes(20), "gzip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5"),
        (b"\x7fELF" + bytes(20), "not a checkpoint of a known format.*7f 45 4c 46"),
        (b"cposix\nsystem\n(S'true'\ntR.", "a text"),
        (b"PK\x03\x04" + bytes(100), "table of contents"),
    ],
)
def test_what_is_no_checkpoint_is_said_to_be_what_it_is(content, complaint, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"(?s){complaint}") as caught:
        formats.read(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_numpy_archive_is_no_torch_file(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3))
    (tmp_path / "a.pth").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match=r"zip archive, but not one of torch\.save"):
        formats.read(tmp_path / "a.pth")


def test_a_torchscript_program_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("data.pkl", "code/__torch__/torch/nn/modules/linear.py", "constants.pkl", "version"):
            archive.writestr(f"a/{name}", "x" * 100)
    with pytest.raises(UserError, match="TorchScript program"):
        formats.read(tmp_path / "a.pt")


def test_the_name_of_a_file_means_nothing(tmp_path):
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "weights.pkl")
    assert formats.read(tmp_path / "weights.pkl").format == "safetensors"
    torch.save({"a": torch.ones(2)}, tmp_path / "weights.safetensors")
    assert formats.read(tmp_path / "weights.safetensors").format == "torch zip file"


def _fifo(path):
    os.mkfifo(path)


def _loop(path):
    path.symlink_to(path)


@pytest.mark.skipif(os.name == "nt", reason="POSIX files")
@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (_fifo, "not a regular file"),
        (os.mkdir, "not a regular file"),
        (_loop, "cannot be opened"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to(path.with_name("nowhere")), "cannot be opened"),
        (lambda path: None, "cannot be opened"),
    ],
    ids=["fifo", "folder", "loop", "device", "dangling", "absent"],
)
def test_only_regular_files_are_opened(make, complaint, tmp_path):
    make(tmp_path / "weights.pth")
    with pytest.raises(UserError, match=complaint):
        formats.read(tmp_path / "weights.pth")


def test_a_file_without_tensors_is_refused(tmp_path):
    safetensors.torch.save_file({}, tmp_path / "none")
    with pytest.raises(UserError, match="no tensors"):
        formats.read(tmp_path / "none")


def test_a_name_that_would_steer_the_terminal_is_refused(tmp_path):
    safetensors.torch.save_file({"a\x1b[2J": torch.ones(1)}, tmp_path / "file")
    with pytest.raises(UserError, match="no printable name"):
        formats.read(tmp_path / "file")


@pytest.mark.parametrize("content", [[1, 2], {}, {"step": 3}, {"model": {"a": 1}}, {"a": torch.ones(1), "b": 2}])
def test_a_torch_file_without_a_state_dict_says_what_it_holds(content, tmp_path):
    torch.save(content, tmp_path / "file")
    with pytest.raises(UserError, match="state dict"):
        formats.read(tmp_path / "file")


def test_a_choice_between_two_state_dicts_is_left_to_the_user(tmp_path):
    torch.save({"model": {"a": torch.ones(1)}, "net": {"a": torch.zeros(1)}}, tmp_path / "file")
    with pytest.raises(UserError, match=r"'model' \(1 tensors\), 'net' \(1 tensors\)\. .*#key=model"):
        formats.read(tmp_path / "file")


def test_a_network_saved_whole_is_refused_by_the_name_of_its_class(tmp_path):
    for zipped in (True, False):
        torch.save(torch.nn.Linear(1, 1), tmp_path / "file", _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match=r"`torch\.nn\.modules\.linear\.Linear`.*state_dict"):
            formats.read(tmp_path / "file")


def test_a_legacy_file_that_is_also_a_tar_archive_never_reaches_torch(tmp_path):
    """The layout of a tar header leaves its first 100 bytes free: a file can begin as both."""
    content = legacy_bytes(b"}")
    with tarfile.open(tmp_path / "tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    header = bytearray((tmp_path / "tar").read_bytes())
    header[:100] = content[:100]
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    (tmp_path / "both").write_bytes(header)
    assert tarfile.is_tarfile(tmp_path / "both")
    with pytest.raises(UserError, match="also a tar archive"):
        formats.read(tmp_path / "both")


def test_a_zip_of_another_kind_is_no_torch_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        archive.writestr("folder/readme.txt", "hello")
    with pytest.raises(UserError, match=r"not one of torch\.save"):
        formats.read(tmp_path / "a")
