"""Claims of lessonlib.networks.vision_transformer. References: torch's own encoder layer with the same weights; counts by hand."""

import copy

import pytest
import torch
from torch import nn

from lessonlib.corpora.digits import Images, digits
from lessonlib.lora import LoRALinear, add_lora, lora_layers, merge_lora, remove_lora
from lessonlib.networks.mlp import score
from lessonlib.networks.vision_transformer import (
    Layer,
    VisionTransformer,
    image_batches,
    image_loss,
    patches,
    turned,
)
from lessonlib.training import fit, seed_everything, trainable_parameters

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
close = torch.testing.assert_close


@pytest.fixture(scope="module")
def trained():
    """A network of upright digits; a test takes a copy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seed_everything(0)
    model = VisionTransformer()
    fit(model, image_batches(digits("train"), 300), learning_rate=3e-3, loss=image_loss, warmup=20)
    torch.set_num_threads(threads)
    return model.eval()


def test_a_layer_equals_torchs():
    torch.manual_seed(0)
    ours = Layer(32, 4)
    theirs = nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
    a = ours.attention
    pairs = {
        "self_attn.in_proj_weight": torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight]),
        "self_attn.in_proj_bias": torch.cat([a.q_proj.bias, a.k_proj.bias, a.v_proj.bias]),
    }
    for name, mine in {
        "self_attn.out_proj": a.o_proj,
        "linear1": ours.up_proj,
        "linear2": ours.down_proj,
    }.items():
        pairs |= {f"{name}.weight": mine.weight, f"{name}.bias": mine.bias}
    for name, mine in {"norm1": ours.norm_attention, "norm2": ours.norm_mlp}.items():
        pairs |= {f"{name}.weight": mine.weight, f"{name}.bias": mine.bias}
    theirs.load_state_dict(pairs)
    z = torch.randn(5, 17, 32)
    close(ours(z), theirs(z), atol=1e-5, rtol=0)


def test_patches_are_squares_of_the_image_in_reading_order():
    x = torch.arange(128.0).view(2, 64)
    expected = nn.functional.unfold(x.view(2, 1, 8, 8), 2, stride=2).transpose(1, 2)  # torch's own cutter
    assert torch.equal(patches(x, 2), expected)


def test_a_patch_that_does_not_divide_the_side_is_refused():
    with pytest.raises(ValueError, match="patch is 3; it must divide the 8 pixels"):
        VisionTransformer(patch=3)


def test_every_patch_has_its_place(trained):
    # Without the places the network could not tell an image from the same patches in another order.
    x = digits("test").x[:50]
    mixed = x.view(-1, 4, 2, 8).flip(1).flatten(1)  # two rows of pixels are one row of patches
    assert (trained(x) - trained(mixed)).abs().max() > 1
    without = copy.deepcopy(trained)
    without.position_embedding.data.zero_()
    close(without(x), without(mixed), atol=1e-4, rtol=0)


def test_turning_four_times_gives_the_image_back_and_once_does_not():
    images = digits("test")
    assert torch.equal(turned(turned(turned(turned(images)))).x, images.x)
    first = Images(torch.arange(64.0)[None], torch.tensor([0]))
    assert turned(first).x[0, :8].tolist() == [
        7,
        15,
        23,
        31,
        39,
        47,
        55,
        63,
    ]  # the right column is now the top row


def test_it_reads_upright_digits_and_not_turned_ones(trained):
    assert score(trained, digits("test")).value > 0.9
    assert score(trained, turned(digits("test"))).value < 0.35


@pytest.mark.slow
def test_the_same_lora_layer_teaches_it_turned_digits(trained):
    model = copy.deepcopy(trained)
    W = {name: p.detach().clone() for name, p in model.named_parameters()}
    seed_everything(0)
    add_lora(model, LINEAR, r=4, alpha=8)
    assert {type(layer) for _, layer in lora_layers(model)} == {LoRALinear}
    batches = image_batches(turned(digits("train")), 150)
    fit(model, batches, learning_rate=5e-3, loss=image_loss)
    adapted = score(model, turned(digits("test")))
    assert adapted.value > 0.85
    x = turned(digits("test")).x
    with torch.no_grad():
        before = model(x)
        close(merge_lora(model)(x), before, atol=1e-4, rtol=1e-4)
    remove_lora(model)
    assert all(torch.equal(W[name], p) for name, p in model.named_parameters())


def test_the_count_is_r_times_in_plus_out():
    # By hand: width 32, inner 64, three layers: four of 32 x 32, and one each of 32 x 64 and 64 x 32.
    model = add_lora(VisionTransformer(), LINEAR, r=4)
    assert sum(p.numel() for p in trainable_parameters(model)) == 3 * 4 * (4 * 64 + 2 * 96)


def test_batches_show_every_image_once_an_epoch():
    images = Images(torch.arange(10.0)[:, None], torch.arange(10))
    shown = torch.cat([batch.y for batch in image_batches(images, steps=5, batch_size=4)])
    assert len(shown) == 20
    assert sorted(shown[:10].tolist()) == sorted(shown[10:].tolist()) == list(range(10))
    assert shown[:10].tolist() != shown[10:].tolist()
