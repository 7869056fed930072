"""What is known of cards by their compute capability, and what is said when one is full."""
import argparse

import pytest

from styleblend.cli.running import run_parsed
from styleblend.machine.cards import exact_product, full_card, shared_memory

# as Jittor 1.3.11 raises it
FULL = RuntimeError("Execute fused operator(3/9) failed.\nReason: [f 1128 cuda_device_allocator.cc:31] "
                    "Unable to alloc cuda device memory for size 4294967296")


def test_products_and_shared_memory_by_capability():
    """Tensor cores for float32 only where three products of TF32 are faster than one of float32."""
    assert [exact_product(capability) for capability in (75, 80, 86, 89, 90)] == ["FMA", "SPLIT", "FMA", "FMA", "SPLIT"]
    assert [shared_memory(capability) >> 10 for capability in (75, 80, 86, 89, 90)] == [24, 48, 24, 24, 48]


@pytest.mark.parametrize("dtype, offload, leaner", [
    ("float32", False, "Try --offload, or --dtype float16, or a smaller sampling.batch"),
    ("float16", False, "Try --offload, or a smaller sampling.batch"),
    ("float32", None, "Try --dtype float16, or a smaller sampling.batch"),
    (None, None, "Try a smaller sampling.batch")])
def test_a_full_card_names_leaner_settings(dtype, offload, leaner):
    said = full_card(FULL, dtype, offload)
    assert said.startswith("the card's memory is full; what is finished is kept. ") and leaner in said
    assert full_card(RuntimeError("GPU memory is overflow, please reduce your batch_size"), dtype, offload) == said
    assert full_card(RuntimeError("something else"), dtype, offload) is None


@pytest.mark.parametrize("options", [{"dtype": None, "offload": False}, {"dtype": "bfloat16"}, {}], ids=str)
def test_a_command_ends_with_the_sentence(options, capsys):
    def command(args):
        raise FULL

    assert run_parsed(argparse.Namespace(run=command, **options)) == 2
    said = capsys.readouterr().err
    assert said.startswith("styleblend: the card's memory is full") and said.count("\n") == 1
    assert ("--dtype float16" in said) == ("offload" in options) == ("--offload" in said)
