"""Claims of lessonlib.lora.deltas. References: LoRA's layers and files, which test_lora.py holds against PEFT."""

import pytest
import torch
from tiny_models import bits, filled, logits, same

from lessonlib.lora import LoRAError, LoRALinear, add_lora, load_lora, lora_layers, merge_lora, save_lora
from lessonlib.lora.deltas import Delta, bare_copy, deltas_of, put_deltas, read_deltas, write_deltas
from lessonlib.lora.dora import DoRALinear


@pytest.fixture
def tuned(make_tiny):
    """A tiny model with LoRA of unequal ranks and scales."""
    model = add_lora(make_tiny(), r=4, alpha=8)
    layer = model.model.layers[0].self_attn
    layer.q_proj = LoRALinear(layer.q_proj.base, r=2, alpha=7)
    return filled(model)


def test_an_adapter_is_put_back_as_it_was_taken(tuned, tiny, tiny_tokens):
    adapter = deltas_of(tuned)
    assert {(update.r, update.scale) for update in adapter.values()} == {(2, 3.5), (4, 2.0)}
    assert torch.equal(logits(put_deltas(tiny, adapter), tiny_tokens), logits(tuned, tiny_tokens))


def test_a_merged_models_adapter_is_the_one_it_had(tuned):
    before = deltas_of(tuned)
    after = deltas_of(merge_lora(tuned))
    assert all(torch.equal(before[path].dense(), after[path].dense()) for path in before)


def test_an_adapter_taken_is_a_copy(tuned):
    adapter = deltas_of(tuned)
    before = {path: update.B.clone() for path, update in adapter.items()}
    for _, layer in lora_layers(tuned):
        layer.B.data.zero_()
    assert all(torch.equal(adapter[path].B, before[path]) and before[path].any() for path in adapter)


def test_an_adapter_that_was_put_trains(tuned, tiny, tiny_tokens):
    put_deltas(tiny, deltas_of(tuned))(tiny_tokens, labels=tiny_tokens).loss.backward()
    assert all(layer.A.grad.any() and layer.B.grad.any() for _, layer in lora_layers(tiny))


def test_files_are_read_and_written_without_touching_the_base(tuned, tiny, tiny_tokens, tmp_path):
    before = bits(tiny)
    write_deltas(deltas_of(tuned), tmp_path / "ours", tiny)
    read = read_deltas(save_lora(tuned, tmp_path / "loras"), tiny)
    same(before, bits(tiny))
    assert torch.equal(logits(put_deltas(tiny, read), tiny_tokens), logits(tuned, tiny_tokens))


def test_what_is_written_load_lora_reads(tuned, tiny, make_tiny, tiny_tokens, tmp_path):
    write_deltas(deltas_of(tuned), tmp_path, tiny)
    assert torch.equal(logits(load_lora(make_tiny(), tmp_path), tiny_tokens), logits(tuned, tiny_tokens))


def test_a_bare_copy_shares_every_number_and_nothing_else(tuned):
    twin = bare_copy(tuned)
    assert not list(lora_layers(twin))
    storages = {p.data_ptr() for name, p in tuned.named_parameters() if name[-2:] not in (".A", ".B")}
    assert {p.data_ptr() for p in twin.parameters()} == storages
    assert next(tuned.model.layers[0].self_attn.q_proj.parameters()).requires_grad


def test_a_misfit_is_refused_and_changes_nothing(tuned, make_tiny):
    for changes, message in (
        ({"num_hidden_layers": 1}, r"layers.1.self_attn.q_proj, which this model does not have"),
        ({"hidden_size": 64}, r"do not fit a matrix \(64, 64\)"),
    ):
        other = make_tiny(**changes)
        before = bits(other)
        with pytest.raises(LoRAError, match=message):
            put_deltas(other, deltas_of(tuned))
        same(before, bits(other))


def test_numbers_that_are_not_finite_are_refused(tuned, tiny):
    adapter = deltas_of(tuned)
    adapter["model.layers.1.self_attn.v_proj"].A[0, 0] = torch.nan
    with pytest.raises(LoRAError, match=r"layers.1.self_attn.v_proj.A holds NaN"):
        put_deltas(tiny, adapter)


def test_what_b_a_does_not_describe_is_refused(tiny):
    with pytest.raises(LoRAError, match=r"q_proj is a DoRALinear with m"):
        deltas_of(add_lora(tiny, r=4, layer=DoRALinear))


def test_a_model_without_lora_has_no_adapter(tiny):
    with pytest.raises(LoRAError, match=r"no LoRA layers"):
        deltas_of(tiny)


def test_the_delta_is_scale_times_b_a():
    A, B = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[3.0], [-1.0]])
    assert Delta(A, B, 0.5).dense().tolist() == [[1.5, 3.0, 0.0], [-0.5, -1.0, 0.0]]
    assert Delta(A, B).shape == (2, 3)
