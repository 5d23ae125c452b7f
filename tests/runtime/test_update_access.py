"""A tensor that a kernel reads and writes: access "update" of a binding, as the run time reads it."""

from __future__ import annotations

import pytest

from kernelwright.gen.binding import bindings
from kernelwright.runtime.binding import lower, read_binding
from kernelwright.runtime.errors import TableError
from kernelwright.runtime.schema import Node


def test_an_updated_tensor_is_written_and_read():
    found = read_binding(Node(value=bindings()["flash_bwd"], path="$", file="table.json"))
    uses = {tensor.name: lowered[2] for tensor, lowered in zip(found.tensors, lower(found).tensors, strict=True)}
    assert uses["q"] == 0 and uses["dk"] == 1 and uses["dq_sum"] == 2
    assert {tensor.name for tensor in found.tensors if tensor.is_written} == {"dq_sum", "dk", "dv", "dbias"}


def test_another_access_is_refused():
    changed = dict(bindings()["flash_bwd_delta"])
    changed["tensors"] = [{**one, "access": "append"} for one in changed["tensors"]]
    with pytest.raises(TableError, match="must be one of read, write, update"):
        read_binding(Node(value=changed, path="$", file="table.json"))


@pytest.mark.parametrize("operation", sorted(bindings()))
def test_every_binding_is_one_that_the_run_time_reads(operation):
    lowered = lower(read_binding(Node(value=bindings()[operation], path="$", file="table.json")))
    assert (
        len(lowered.tensors) <= 32 and lowered.num_sizes <= 32 and len(lowered.scalars) <= 16
    )  # the launcher's arrays
