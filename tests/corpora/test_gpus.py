"""GPUs: each figure held to what the chip's own units and clocks give, so that no sparse one slips in."""

import re

import pytest

from lessonlib.corpora.published import gpu, gpus

ALL = gpus()
# From the architecture whitepapers, kept apart from the file: streaming multiprocessors; GHz under fp32 and
# under tensor load; dense fp16 FLOP a clock and multiprocessor (fp32 accumulation); fp32 cores each; bits of
# the bus; Gbit/s a pin.
CHIPS = {
    "T4": (40, 1.59, 1.59, 1024, 64, 256, 10),
    "V100-32GB": (80, 1.53, 1.53, 1024, 64, 4096, 1.75),
    "RTX 3090": (82, 1.695, 1.695, 512, 128, 384, 19.5),
    "RTX 4090": (128, 2.52, 2.52, 512, 128, 384, 21),
    "A10": (72, 1.695, 1.695, 1024, 128, 384, 12.5),
    "L4": (58, 2.04, 2.04, 1024, 128, 192, 12.5),
    "L40S": (142, 2.52, 2.52, 1024, 128, 384, 18),
    "A100-40GB": (108, 1.41, 1.41, 2048, 64, 5120, 2.43),
    "A100-80GB": (108, 1.41, 1.41, 2048, 64, 5120, 3.186),
    "H100-80GB": (132, 1.98, 1.83, 4096, 128, 5120, 5.23),
    "H200": (132, 1.98, 1.83, 4096, 128, 6144, 6.25),
    "B200": (148, 1.965, 1.85, 8192, 128, 7680, 8),
}
each_card = pytest.mark.parametrize("name", ALL)


def test_every_card_has_a_chip_to_be_checked_by():
    assert set(ALL) == set(CHIPS)


@each_card
def test_a_card_has_every_field(name):
    card = ALL[name]
    fields = "memory_gb memory_mib bandwidth_gb_s peak_flops bfloat16 compute_capability source"
    assert set(card) - {"note"} == set(fields.split())
    assert set(card["peak_flops"]) <= {"fp32", "tf32", "fp16", "bf16", "int8", "fp8"}
    assert {"fp32", "fp16"} <= set(card["peak_flops"])
    assert re.fullmatch(r"NVIDIA .+, 20\d\d( \(.+\))?", card["source"])


@each_card
def test_dense_fp16_is_units_times_clock(name):
    sms, _, ghz, per_clock, *_ = CHIPS[name]
    assert ALL[name]["peak_flops"]["fp16"] == pytest.approx(sms * ghz * 1e9 * per_clock, rel=0.015)


@each_card
def test_fp32_is_two_operations_a_core_and_clock(name):
    sms, ghz, _, _, cores, *_ = CHIPS[name]
    assert ALL[name]["peak_flops"]["fp32"] == pytest.approx(2 * sms * cores * ghz * 1e9, rel=0.01)


@each_card
def test_bandwidth_is_bus_width_times_data_rate(name):
    *_, bits, rate = CHIPS[name]
    assert ALL[name]["bandwidth_gb_s"] == pytest.approx(bits / 8 * rate, rel=0.005)


@each_card
def test_narrower_numbers_go_twice_as_fast(name):
    peak = ALL[name]["peak_flops"]
    geforce = name.startswith("RTX")  # fp16 with fp32 accumulation runs at half rate there, integers do not
    for dtype, times in (("tf32", 0.5), ("bf16", 1), ("fp8", 2), ("int8", 4 if geforce else 2)):
        if dtype in peak:
            assert peak[dtype] == pytest.approx(times * peak["fp16"], rel=0.03)


@each_card
def test_what_a_card_can_do_follows_from_its_compute_capability(name):
    # CUDA C++ Programming Guide: bfloat16 and TF32 from 8.0, FP8 from 8.9, int8 tensor cores from 7.5.
    card = ALL[name]
    capability, peak = card["compute_capability"], card["peak_flops"]
    assert card["bfloat16"] == ("bf16" in peak) == ("tf32" in peak) == (capability >= 8.0)
    assert ("fp8" in peak) == (capability >= 8.9)
    assert ("int8" in peak) == (capability >= 7.5)


@each_card
def test_memory_as_sold_is_never_more_than_the_driver_reports(name):
    reported = ALL[name]["memory_mib"] * 2**20 / 1e9
    assert ALL[name]["memory_gb"] <= reported <= ALL[name]["memory_gb"] * 2**30 / 1e9


@each_card
def test_operations_a_byte_are_plausible(name):
    assert 70 < ALL[name]["peak_flops"]["fp16"] / (ALL[name]["bandwidth_gb_s"] * 1e9) < 450


def test_an_unknown_card_is_named_with_its_neighbours():
    with pytest.raises(KeyError, match=r"no 'A100-80' in data/gpus\.json; nearest: A100-80GB"):
        gpu("A100-80")


def test_a_caller_cannot_change_the_catalogue():
    gpus()["T4"]["peak_flops"]["bf16"] = 1.0
    gpu("T4")["peak_flops"]["bf16"] = 1.0
    assert "bf16" not in gpu("T4")["peak_flops"]
