"""Random files, and sound ones with random damage: each is read, or refused with an error for the user."""

from __future__ import annotations

import contextlib
import io
import zipfile

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn

from harness.errors import UserError
from harness.weights import formats
from helpers.examples import examples
from helpers.weight_files import zip_bytes

MAGICS = (
    *(b"", b"\x80\x02", b"\x80\x04", b"PK\x03\x04", b"\x08\0\0\0\0\0\0\0{"),
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.",
)
OPCODES = b"}](tuRq\x00h\x00\x85\x93\x81besN\x94K\x01\x8c\x01a."
FUZZ = settings(deadline=None, max_examples=examples(120), suppress_health_check=[HealthCheck.function_scoped_fixture])
CUTS = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4), st.integers(0, 4)), min_size=1, max_size=3)
"""Where (as a share of the length), what is put there, and how many bytes it replaces."""


def damaged(content: bytes, cuts: list[tuple[float, bytes, int]]) -> bytes:
    for share, inserted, removed in cuts:
        start = int(share * len(content))
        content = content[:start] + inserted + content[start + removed :]
    return content


@pytest.fixture
def read_or_refuse(tmp_path):
    def read(content: bytes) -> None:
        (tmp_path / "file").write_bytes(content)
        with contextlib.suppress(UserError):
            loaded = formats.read(tmp_path / "file")
            assert all(isinstance(tensor, torch.Tensor) for tensor in loaded.tensors.values())

    return read


def saved(**options) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": nn.Linear(2, 2).state_dict(), "step": 3, "rates": [0.1, (1, None)]}, buffer, **options)
    return buffer.getvalue()


ZIP, LEGACY = saved(), saved(_use_new_zipfile_serialization=False)
SAFETENSORS = safetensors.torch.save(nn.Linear(2, 2).state_dict())


@FUZZ
@given(magic=st.sampled_from(MAGICS), content=st.binary(max_size=200))
def test_random_bytes(magic, content, read_or_refuse):
    read_or_refuse(magic + content)


@FUZZ
@given(program=st.lists(st.sampled_from(OPCODES)).map(bytes))
def test_random_opcodes(program, read_or_refuse):
    read_or_refuse(b"\x80\x04" + program + b".")


@pytest.mark.slow
@FUZZ
@given(cuts=CUTS)
def test_a_damaged_pickle_of_edm(cuts, edm_pickle, read_or_refuse):
    read_or_refuse(damaged(edm_pickle(nn.Linear(2, 2), {"img_resolution": 8}), cuts))


@settings(FUZZ, max_examples=10)
@given(cuts=CUTS)
def test_a_damaged_published_file(cuts, published, read_or_refuse):
    read_or_refuse(damaged(published("edm_tiny_uncond.pkl").read_bytes(), cuts))


@FUZZ
@given(cuts=CUTS)
@example(cuts=[(0.999, b"", 1)])
def test_a_damaged_zip_file(cuts, read_or_refuse):
    read_or_refuse(damaged(ZIP, cuts))


@pytest.mark.slow
@FUZZ
@given(cuts=CUTS)
def test_a_damaged_pickle_in_a_sound_zip_file(cuts, read_or_refuse):
    with zipfile.ZipFile(io.BytesIO(ZIP)) as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    records["data.pkl"] = damaged(records["data.pkl"], cuts)
    read_or_refuse(zip_bytes(b"N", {f"archive/{name}": data for name, data in records.items()}))


@FUZZ
@given(cuts=CUTS)
def test_a_damaged_legacy_file(cuts, read_or_refuse):
    read_or_refuse(damaged(LEGACY, cuts))


@FUZZ
@given(cuts=CUTS)
def test_a_damaged_safetensors_file(cuts, read_or_refuse):
    read_or_refuse(damaged(SAFETENSORS, cuts))
