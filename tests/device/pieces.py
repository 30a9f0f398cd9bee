"""Pieces of the library, each on the pretended device; run by a process of its own, which writes what became of each.

python pieces.py float16: {name: null or the error}, as JSON. A piece is a function with the tools of `Bench` in its hands.
"""

import contextlib
import json
import sys
import tempfile
import traceback
from pathlib import Path

PIECES = {}


def piece(function):
    """Register a piece under its name in words."""
    PIECES[function.__name__.replace("_", " ")] = function
    return function


class Bench:
    """What a piece works with: fresh models on the device, batches of the CPU as the library makes them."""

    LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    TEXTS = ("late parcel", "broken", "my refund please", "thanks")

    def __init__(self, dtype: str):
        from believing import DEVICE, believe
        from tiny_models import tiny_model, tiny_tokenizer

        from lessonlib.training.labels import LabelTask

        self.device, self.dtype, self.make = DEVICE, believe(dtype), tiny_model
        self.tokenizer = tiny_tokenizer()
        self.task = LabelTask(self.tokenizer, ["billing", "delivery", "refund"])
        self.batches = self.task.training_batches(list(self.TEXTS), [0, 1, 2, 0], steps=2, batch_size=4)

    def base(self, **changes):
        return self.make(**changes).to(self.dtype).to(self.device).eval()

    def sdpa(self):
        return self.base(attn_implementation="sdpa")

    def tokens(self, rows=2, length=9):
        import torch

        return torch.randint(2, 512, (rows, length), generator=torch.Generator().manual_seed(0)).to(self.device)

    def fit(self, model, **settings):
        import torch

        from lessonlib.training import fit

        history = fit(model, self.batches, learning_rate=settings.pop("learning_rate", 1e-3), **settings)
        assert all(torch.isfinite(p.float()).all().item() for p in model.parameters())
        return history

    def adapter(self, r=2, seed=0):
        import torch

        from lessonlib.lora import add_lora
        from lessonlib.lora.deltas import deltas_of

        adapter = deltas_of(add_lora(self.base(), ["q_proj", "v_proj"], r=r))
        torch.manual_seed(seed)
        return {path: d._replace(B=0.05 * torch.randn_like(d.B)) for path, d in adapter.items()}

    def answers(self, model):
        import torch

        with torch.no_grad():
            return model(self.tokens()).logits.float().cpu()

    def folder(self):
        return Path(tempfile.mkdtemp())


# --- LoRA and its kin ----------------------------------------------------------------------------------------------------


@piece
def lora_learns(bench):
    from lessonlib.lora import add_lora

    history = bench.fit(add_lora(bench.base(), bench.LINEAR))
    assert len(history.losses) == 2


@piece
def lora_merged_and_taken_back(bench):
    from lessonlib.lora import add_lora, merge_lora, remove_lora, unmerge_lora

    plain = bench.answers(bench.base())
    model = merge_lora(add_lora(bench.base(), bench.LINEAR))
    bench.answers(model)
    assert (bench.answers(remove_lora(unmerge_lora(model))) == plain).all()


@piece
def lora_written_and_read(bench):
    from lessonlib.lora import add_lora, load_lora, save_lora

    folder = save_lora(add_lora(bench.base(), bench.LINEAR), bench.folder())
    bench.fit(load_lora(bench.base(), folder))


@piece
def lora_beside_peft(bench):
    from peft import LoraConfig, PeftModel, get_peft_model

    from lessonlib.lora import load_lora

    model = get_peft_model(bench.base(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.save_pretrained(folder := bench.folder())
    ours = bench.answers(load_lora(bench.base(), folder))
    theirs = bench.answers(PeftModel.from_pretrained(bench.base(), folder))
    assert (ours - theirs).abs().max() < 0.05


@piece
def rslora_learns(bench):
    from lessonlib.lora import add_lora
    from lessonlib.lora.variants import RsLoRALinear

    bench.fit(add_lora(bench.base(), layer=RsLoRALinear))


@piece
def lora_fa_learns(bench):
    from lessonlib.lora import add_lora
    from lessonlib.lora.variants import LoRAFALinear

    bench.fit(add_lora(bench.base(), layer=LoRAFALinear))


@piece
def lora_with_dropout_learns(bench):
    from lessonlib.lora import add_lora
    from lessonlib.lora.variants import DropoutLoRALinear

    bench.fit(add_lora(bench.base(), layer=DropoutLoRALinear))


@piece
def lora_plus_learns(bench):
    from lessonlib.lora import add_lora
    from lessonlib.lora.variants import lora_plus

    model = add_lora(bench.base())
    bench.fit(model, optimizer=lora_plus(model))


@piece
def tied_lora_learns(bench):
    from lessonlib.lora import add_lora
    from lessonlib.lora.variants import tie_lora

    bench.fit(tie_lora(add_lora(bench.base())))


@piece
def dora_learns_and_merges(bench):
    from lessonlib.lora import add_lora, merge_lora
    from lessonlib.lora.dora import DoRALinear, load_dora, save_dora

    model = add_lora(bench.base(), layer=DoRALinear)
    bench.fit(model)
    bench.answers(load_dora(bench.base(), save_dora(model, bench.folder())))
    bench.answers(merge_lora(model))


@piece
def adalora_prunes(bench):
    from lessonlib.lora.adalora import adalora_loss, adalora_optimizer, add_adalora, ranks

    model = add_adalora(bench.base(), steps=2, r=2, start_r=3)
    bench.fit(model, loss=adalora_loss, optimizer=adalora_optimizer(model))
    assert ranks(model)


@piece
def stacked_tasks(bench):
    from lessonlib.lora.stacking import as_after, stack_lora, unstack_lora

    model = stack_lora(stack_lora(bench.base()))
    bench.fit(model)
    with as_after(model, 1):
        bench.answers(model)
    bench.answers(unstack_lora(model))


@piece
def adapters_of_other_bases_are_merged(bench):
    from lessonlib.lora.deltas import put_deltas
    from lessonlib.lora.merging import add_factors, merge_deltas, svd_merge, ties

    two = [bench.adapter(), bench.adapter(seed=1)]
    for merged in (merge_deltas(two), svd_merge(two, r=2), ties(two, 0.5), add_factors(two)):
        bench.answers(put_deltas(bench.base(), merged))


@piece
def trim_elect_and_merge_with_weights_of_the_cpu(bench):
    import torch

    from lessonlib.lora.merging import trim_elect_merge

    updates = torch.randn(3, 4, 5, device=bench.device)
    assert trim_elect_merge(updates, 0.5, torch.ones(3)).shape == (4, 5)


@piece
def deltas_written_and_read(bench):
    from lessonlib.lora.deltas import put_deltas, read_deltas, write_deltas

    folder = write_deltas(bench.adapter(), bench.folder(), bench.base())
    bench.answers(put_deltas(bench.base(), read_deltas(folder, bench.base())))


# --- adapters, prompts, prefixes ----------------------------------------------------------------------------------------


@piece
def adapters_learn(bench):
    from lessonlib.adapters import NearIdentity, add_adapters, add_adapters_after_feed_forward

    bench.fit(add_adapters(bench.base(), m=4))
    bench.fit(add_adapters_after_feed_forward(bench.base(), m=4, module=NearIdentity))


@piece
def adapters_written_read_and_swapped(bench):
    from lessonlib.adapters import add_adapters, load_adapters, read_adapters, save_adapters, swap_adapters

    file = save_adapters(add_adapters(bench.base(), m=4), bench.folder() / "a.safetensors")
    model = load_adapters(bench.base(), file)
    swap_adapters(model, read_adapters(model, file))
    bench.fit(model)


@piece
def the_base_of_adapters_is_hashed(bench):
    from lessonlib.adapters import add_adapters, base_digest

    assert base_digest(add_adapters(bench.base(), m=4)) == base_digest(bench.base())


@piece
def layer_norms_learn(bench):
    from lessonlib.adapters import train_layer_norms

    bench.fit(train_layer_norms(bench.base()))


@piece
def a_prompt_learns(bench):
    from lessonlib.prompting.soft_prompts import add_prompt, load_prompt, save_prompt

    model = add_prompt(bench.sdpa(), 4)
    bench.fit(model, learning_rate=1e-2)
    bench.answers(load_prompt(bench.sdpa(), save_prompt(model, bench.folder())))


@piece
def a_prompt_begins_as_words(bench):
    import torch

    from lessonlib.prompting.soft_prompts import add_prompt

    bench.fit(add_prompt(bench.base(), 4, start=torch.tensor([5, 6])))


@piece
def a_prefix_learns(bench):
    from lessonlib.prompting.soft_prompts import add_prefix, load_prefix, save_prefix

    model = add_prefix(bench.sdpa(), 4)
    bench.fit(model, learning_rate=1e-2)
    bench.answers(load_prefix(bench.sdpa(), save_prefix(model, bench.folder())))


@piece
def a_prefix_begins_as_words(bench):
    import torch

    from lessonlib.prompting.soft_prompts import add_prefix

    bench.fit(add_prefix(bench.base(), 4, start=torch.tensor([5, 6])))


# --- four bits ------------------------------------------------------------------------------------------------------------


@piece
def nf4_there_and_back(bench):
    from lessonlib.quantization.nf4 import dequantize, double_quantize, quantize

    W = bench.base().model.layers[0].mlp.up_proj.weight
    assert (dequantize(double_quantize(quantize(W))) - W).abs().max() < 0.1


@piece
def a_code_book_goes_where_its_codes_are(bench):
    import torch

    from lessonlib.quantization.nf4 import CODEBOOK, in_blocks, nearest, normalize

    W = torch.randn(8, 64, device=bench.device)
    scaled, absmax = normalize(in_blocks(W, 64))
    rows = nearest(scaled, CODEBOOK).int()
    assert (CODEBOOK.to(W.device)[rows] * absmax[:, None] - W).abs().max() < 1


@piece
def every_format_is_measured(bench):
    from lessonlib.quantization.formats import FORMATS, measure

    W = bench.base().model.layers[0].mlp.up_proj.weight.detach()
    assert all(measure(W, one).error < 1 for one in FORMATS)


@piece
def our_four_bit_layer_carries_lora(bench):
    from lessonlib.lora import add_lora
    from lessonlib.quantization.linear import to_four_bits
    from lessonlib.quantization.qlora import QLoRALinear

    bench.fit(add_lora(to_four_bits(bench.base()), bench.LINEAR, layer=QLoRALinear))


@piece
def merged_into_four_bits(bench):
    from lessonlib.lora import add_lora, lora_layers, unmerge_lora
    from lessonlib.quantization.linear import to_four_bits
    from lessonlib.quantization.qlora import QLoRALinear, merge_into_four_bits, update_lost

    model = add_lora(to_four_bits(bench.base()), bench.LINEAR, layer=QLoRALinear)
    for _, layer in lora_layers(model):
        layer.B.data.normal_()
    assert update_lost(next(lora_layers(model))[1]) < 1
    bench.answers(merge_into_four_bits(model))
    bench.fit(unmerge_lora(model))


@piece
def bitsandbytes_loads_and_trains(bench):
    from lessonlib.lora import add_lora, merge_lora
    from lessonlib.quantization.qlora import QLoRALinear, load_four_bit, model_bytes, paged_adamw

    folder = bench.folder()
    bench.make(hidden_size=64, intermediate_size=128).save_pretrained(folder)
    bench.tokenizer.save_pretrained(folder)
    model, _ = load_four_bit(str(folder))
    assert next(model.parameters()).device == bench.device and model_bytes(model)
    assert model.config._attn_implementation == "sdpa"
    add_lora(model, bench.LINEAR, layer=QLoRALinear)
    history = bench.fit(model, optimizer=paged_adamw)
    assert history.losses[0] > 0
    bench.answers(merge_lora(model))


@piece
def a_bias_stays_beside_four_bits(bench):
    import torch

    from lessonlib.quantization.qlora import QLoRALinear, dense_weight, load_four_bit

    folder, dense = bench.folder(), bench.make(hidden_size=64, intermediate_size=128, attention_bias=True)
    for layer in dense.model.layers:
        torch.nn.init.normal_(layer.self_attn.q_proj.bias)
    dense.save_pretrained(folder)
    bench.tokenizer.save_pretrained(folder)
    model, _ = load_four_bit(str(folder))
    query, x = model.model.layers[0].self_attn.q_proj, torch.randn(3, 64).to(bench.device, bench.dtype)
    expected = x.float() @ dense_weight(query).float().T + dense.model.layers[0].self_attn.q_proj.bias.to(
        bench.device
    )
    assert (query(x).float() - expected).abs().max() < 0.02 * expected.abs().max()
    assert (
        QLoRALinear(query, r=2, alpha=4.0).merged()(x).float() - expected
    ).abs().max() < 0.02 * expected.abs().max()


@piece
def the_paged_optimizer_is_the_one_of_a_gpu(bench):
    from believing import PagedAdamW

    from lessonlib.lora import add_lora
    from lessonlib.quantization.qlora import paged_adamw

    assert isinstance(
        paged_adamw([p for p in add_lora(bench.base()).parameters() if p.requires_grad], 1e-3), PagedAdamW
    )


# --- training --------------------------------------------------------------------------------------------------------------


@piece
def every_weight_learns_by_its_master(bench):
    from lessonlib.training.master_weights import MasterAdamW

    model = bench.base().requires_grad_(True)
    before = [p.detach().float().cpu() for p in model.parameters()]
    bench.fit(model, learning_rate=1e-2, optimizer=MasterAdamW)
    after = [p.detach().float().cpu() for p in model.parameters()]
    assert sum((a != b).any().item() for a, b in zip(before, after)) > len(before) / 2


@piece
def masters_move_as_on_the_cpu(bench):
    """Large gradients too, which float16 holds only where they are not scaled far: what overflows is skipped."""
    from lessonlib.training import Steps
    from lessonlib.training.master_weights import MasterAdamW

    def trained(device):
        model = bench.make().to(bench.dtype).to(device).requires_grad_(True)
        steps = Steps(model, bench.batches * 3, learning_rate=1e-3, optimizer=MasterAdamW)
        while not steps.done:
            steps.step()
        return [p.detach().float().cpu() for p in model.parameters()], steps

    (there, steps), (here, own) = trained(bench.device), trained("cpu")
    assert steps.skipped == own.skipped
    assert max((a - b).abs().max().item() for a, b in zip(there, here)) < 5e-3


@piece
def a_step_that_overflows_is_skipped_and_said(bench):
    import torch

    from lessonlib.lora import add_lora
    from lessonlib.training import fit
    from lessonlib.training.labels import label_loss

    model = add_lora(bench.base())
    history = fit(model, bench.batches * 2, learning_rate=1e-3, loss=lambda m, b: 3000 * label_loss(m, b))
    if bench.dtype == torch.float16:
        assert history.skipped and f"({history.skipped} skipped: float16 overflowed)" in repr(history)
    else:
        assert not history.skipped and "skipped" not in repr(history)


@piece
def float16_weights_without_masters_are_refused(bench):
    import torch

    from lessonlib.training import Steps

    settings = {"learning_rate": 1e-3}
    if bench.dtype == torch.float16:
        try:
            Steps(bench.base().requires_grad_(True), bench.batches, **settings)
        except ValueError as error:
            assert "MasterAdamW" in str(error)
        else:
            raise AssertionError("not refused")
    else:
        Steps(bench.base().requires_grad_(True), bench.batches, **settings).step()


@piece
def distillation_as_in_10(bench):
    from functools import partial

    from lessonlib.training.distillation import distillation_loss, with_fewer_layers
    from lessonlib.training.master_weights import MasterAdamW

    teacher = bench.base()
    bench.fit(with_fewer_layers(teacher, 1), optimizer=MasterAdamW, loss=partial(distillation_loss, teacher=teacher))


@piece
def completions_are_learned(bench):
    from lessonlib.lora import add_lora
    from lessonlib.training import fit
    from lessonlib.training.completions import completion_batches, completion_loss, mean_completion_loss

    pairs = [("late parcel", " refund"), ("broken", " delivery")]
    batches = completion_batches(bench.tokenizer, pairs, steps=2, batch_size=2, seed=0)
    model = add_lora(bench.base())
    fit(model, batches, learning_rate=1e-3, loss=completion_loss)
    assert mean_completion_loss(model, bench.tokenizer, pairs) > 0


def _interrupted(bench, optimizer, begin, go_on):
    """A training that was killed after two steps on one device and taken up on another, the same uninterrupted, and the
    optimizer of the one that was taken up."""
    import functools
    import os

    import torch

    from lessonlib import training
    from lessonlib.lora import add_lora
    from lessonlib.training.labels import label_loss

    made = []

    def spied(parameters, **settings):
        made.append(optimizer(parameters, **settings))
        return made[-1]

    def run(device, steps=4):
        left = iter(range(steps))

        @functools.wraps(label_loss)  # of the same code, as far as a checkpoint can tell
        def loss(model, batch):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return label_loss(model, batch)

        torch.manual_seed(0)
        model = add_lora(bench.make().to(bench.dtype)).to(device)
        settings = {"learning_rate": 1e-2, "optimizer": spied, "loss": loss, "resume": "here"}
        return training.fit(model, bench.batches * 2, **settings)

    folder, was = str(bench.folder()), os.environ.pop("CI", None)
    os.environ.update(LESSONLIB_CACHE=folder, LESSONLIB_WORK=folder)
    pace, training.CHECKPOINT_SECONDS = training.CHECKPOINT_SECONDS, 0.0
    try:
        with contextlib.suppress(KeyboardInterrupt):
            run(begin, steps=2)
        taken_up, its_own = run(go_on), made[-1]
        assert taken_up.resumed_at == 2
        return taken_up, run(begin), its_own
    finally:
        training.CHECKPOINT_SECONDS = pace
        if was is not None:
            os.environ["CI"] = was


@piece
def a_checkpoint_is_taken_up(bench):
    import torch

    after, whole, _ = _interrupted(bench, torch.optim.AdamW, bench.device, bench.device)
    assert after.losses == whole.losses


@piece
def a_checkpoint_of_the_paged_optimizer_is_taken_up(bench):
    from lessonlib.quantization.qlora import paged_adamw

    after, whole, optimizer = _interrupted(bench, paged_adamw, bench.device, bench.device)
    assert after.losses == whole.losses
    assert {type(state["step"]) for state in optimizer.state.values()} == {int}


@piece
def a_checkpoint_of_the_cpu_is_taken_up(bench):
    import torch

    after, whole, _ = _interrupted(bench, torch.optim.AdamW, "cpu", bench.device)
    assert max(abs(a - b) for a, b in zip(after.losses, whole.losses)) < 0.05


@piece
def a_checkpoint_goes_back_to_the_cpu(bench):
    import torch

    after, whole, _ = _interrupted(bench, torch.optim.AdamW, bench.device, "cpu")
    assert max(abs(a - b) for a, b in zip(after.losses, whole.losses)) < 0.05


# --- measuring -------------------------------------------------------------------------------------------------------------


@piece
def labels_are_judged(bench):
    from lessonlib.evaluation import accuracy

    assert accuracy(bench.base(), bench.task, bench.TEXTS, [0, 1, 2, 0]).n == 4


@piece
def a_step_is_weighed(bench):
    from lessonlib.evaluation import step_bytes
    from lessonlib.lora import add_lora

    assert step_bytes(add_lora(bench.base()), bench.tokens())["activations"] > 0


@piece
def fused_attention_is_predicted(bench):
    """What autograd keeps on the device, against the prediction for the attention that is in use."""
    from lessonlib.costs.activations import activations
    from lessonlib.costs.architecture import architecture
    from lessonlib.costs.methods import LoRA
    from lessonlib.evaluation import step_bytes
    from lessonlib.lora import add_lora

    shape = {"num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 512}
    for attention, fused in (("sdpa", True), ("eager", False)):
        model = add_lora(bench.base(attn_implementation=attention, **shape), bench.LINEAR, r=4)
        counted = step_bytes(model, bench.tokens(2, 256))["activations"]
        settings = {"element": 2, "batch": 2, "tokens": 256, "fused_attention": fused}
        method = LoRA(4)
        predicted = activations(architecture(model.config), method, **settings).held
        assert abs(predicted / counted - 1) < 0.15, (attention, predicted, counted)


@piece
def the_clock_waits(bench):
    import torch

    from lessonlib.evaluation import paired_times
    from lessonlib.lora import add_lora

    module = torch.get_device_module(bench.device)
    before = module.waited
    paired_times({"forward": lambda: bench.tokens()}, rounds=2, warmup=0)
    assert module.waited >= before + 4
    before = module.waited
    bench.fit(add_lora(bench.base()))
    assert module.waited > before


@piece
def labels_are_scored(bench):
    from lessonlib.prompting import score_labels, score_whole_texts

    asked = [f"{text}\nTopic:" for text in bench.TEXTS]
    one, other = (
        score(bench.sdpa(), bench.tokenizer, "Ticket: ", asked, [" billing", " refund"])
        for score in (score_labels, score_whole_texts)
    )
    assert one.device.type == "cpu" and (one - other).abs().max() < 0.2


@piece
def scores_are_calibrated(bench):
    import torch

    from lessonlib.prompting.calibration import calibrate

    assert calibrate(torch.randn(3, 2).log_softmax(-1), torch.randn(1, 2).log_softmax(-1)).shape == (3, 2)
    assert calibrate(bench.answers(bench.base())[:, 0, :2], bench.answers(bench.base())[:1, 0, :2]).shape == (2, 2)


@piece
def hidden_states_route(bench):
    from lessonlib.serving.routing import Router, mean_hidden, train_router

    h = mean_hidden(bench.base(), bench.tokens())
    router = Router(h.shape[1], 2).to(bench.device)
    train_router(router, h, [0, 1], steps=3)
    assert len(router.pick(h)) == 2


@piece
def experts_are_mixed(bench):
    from lessonlib.serving.bank import LoRABank
    from lessonlib.serving.routing import Router, mean_hidden, mixing

    bank = LoRABank(bench.base(), [bench.adapter(), bench.adapter(seed=1)])
    h = mean_hidden(bank.model, bench.tokens())
    with mixing(bank, Router(h.shape[1], 2).to(bench.device).mix(h)) as model:
        bench.answers(model)


@piece
def a_release_is_checked(bench):
    from lessonlib.serving import release

    log_probs = bench.answers(bench.base())[:, 0, :3].log_softmax(-1)
    release.calibrated(log_probs, [0, 1])
    there = log_probs.to(bench.device)
    release.calibrated(there, [0, 1])
    release.same_outputs("same", there, there)


# --- writing ---------------------------------------------------------------------------------------------------------------


@piece
def texts_are_completed(bench):
    from lessonlib.models.writing import complete

    assert len(complete(bench.sdpa(), bench.tokenizer, ["late", "broken parcel"], 3)) == 2
    assert len(complete(bench.sdpa(), bench.tokenizer, ["late", "broken"], 3, ["."], prefix="Ticket: ")) == 2


@piece
def chains_are_written_and_drawn(bench):
    from lessonlib.reasoning.chains import sample_chains, write_chains

    assert write_chains(bench.sdpa(), bench.tokenizer, ["2 + 2 ="], max_new_tokens=3)
    one, other = (
        sample_chains(bench.sdpa(), bench.tokenizer, ["2 + 2 ="], n=3, temperature=1.0, max_new_tokens=3)
        for _ in "ab"
    )
    assert one == other


@piece
def a_bank_serves(bench):
    from lessonlib.serving.bank import LoRABank

    bank = LoRABank(bench.sdpa(), [bench.adapter(), bench.adapter(seed=1)])
    bank.replace(bank.add(bench.adapter(seed=2)), bench.adapter(seed=3))
    assert len(bank.generate([[12, 7], [12, 7, 9], [4]], rows=[1, -1, 2], max_new_tokens=3)) == 3
    bank.remove(0)
    bank.close()


@piece
def labels_of_one_text_are_told(bench):
    from lessonlib.afternoon import Predictor

    assert Predictor(bench.base(), bench.task)("late parcel")[0] in bench.task.labels


@piece
def rerun_writes_behind_a_prefix(bench):
    from lessonlib.experiments.lesson04_reasoning import write_behind

    assert write_behind(bench.sdpa(), bench.tokenizer, "Ticket: ", ["late"], 3)


@piece
def the_likeliest_text_is_found(bench):
    from lessonlib.experiments.lesson07_tasks import likeliest

    assert likeliest(bench.base(), bench.tokenizer, [["late parcel", "broken", "thanks"]])[0] in range(3)


@piece
def requests_are_read_for_the_router(bench):
    from lessonlib.experiments.lesson10_deployment import request_features

    assert len(request_features(bench.base(), bench.tokenizer, ["late parcel", "broken"])) == 2


# --- small networks and pruning ----------------------------------------------------------------------------------------------


def _digits(bench, count=64):
    from lessonlib.corpora.digits import Images, digits

    images = digits("train")
    return Images(images.x[:count], images.y[:count]).to(bench.device)


@piece
def small_networks_learn_digits(bench):
    from lessonlib.networks.mlp import digit_network, learn, score

    images = _digits(bench)
    network = digit_network(64).to(bench.device)
    learn(network, images, steps=3)
    assert score(network, images).n == 64


@piece
def masks_hold(bench):
    from lessonlib.networks.mlp import digit_network, learn, score
    from lessonlib.pruning import lottery, masks

    images = _digits(bench)
    network = digit_network(64).to(bench.device)

    def train(network, these):
        learn(network, images, steps=2, optimizer=masks.holding(network, these))
        return score(network, images)

    tickets = lottery.iterative_magnitude_pruning(network, train, rounds=2)
    assert tickets[-1].sparsity > 0.2
    masks.shuffled(tickets[-1].masks)
    scores = masks.snip_scores(images)(network, tickets[-1].masks)
    masks.global_masks(scores, tickets[-1].masks, 0.5)


@piece
def sparse_files(bench):
    from lessonlib.networks.mlp import digit_network
    from lessonlib.pruning import lottery, masks
    from lessonlib.pruning.files import load_sparse, save_sparse

    network = digit_network(64).to(bench.device)
    full = masks.full_masks(network)
    half = masks.layerwise_masks(masks.magnitudes(network, full), full, dict.fromkeys(full, 0.5))
    lottery.rewind(network, lottery.snapshot(network), half)
    read = load_sparse(network, save_sparse(network, half, bench.folder() / "sparse.safetensors"))
    assert all(mask.device == bench.device for mask in read.values())


@piece
def a_subspace_learns(bench):
    from lessonlib.pruning.subspace import add_subspace, remove_subspace

    model = add_subspace(bench.base(), ["q_proj", "v_proj"], d=20)
    bench.fit(model)
    bench.answers(remove_subspace(model))


@piece
def a_small_network_moves_in_a_subspace(bench):
    from lessonlib.networks.mlp import digit_network, learn
    from lessonlib.pruning.subspace import RandomSubspace

    learn(RandomSubspace(digit_network(64), 10).to(bench.device), _digits(bench), steps=2)
    RandomSubspace(digit_network(64).to(bench.device), 10)(_digits(bench).x)


@piece
def parts_of_a_language_model_are_taken_out(bench):
    from lessonlib.pruning import language_model as parts
    from lessonlib.training.labels import label_loss

    model, windows = bench.base(), bench.tokens(3, 12).cpu()
    assert parts.perplexity(model, windows) > 0
    assert len(parts.layer_influence(model, windows)) == 2
    importance = parts.head_importance(model, bench.batches, label_loss)
    with parts.without_heads(model, parts.weakest(importance, 0.5)), parts.without_layers(model, [1]):
        parts.perplexity(model, windows)
    with parts.without_small_weights(model, 0.5):
        parts.perplexity(model, windows)


@piece
def functions_are_learned_in_context(bench):
    import torch

    from lessonlib.networks import small_transformer as small
    from lessonlib.training import fit

    network = small.SmallTransformer(torch.nn.Linear(5, 16), 1, width=16, layers=1).to(bench.device)
    functions = small.linear_functions(4, d=4, examples=6, seed=0)
    fit(network, [functions] * 2, learning_rate=1e-3, loss=small.regression_loss)
    there = functions.to(bench.device)
    small.in_context(network, there)
    small.least_squares(there)
    small.ridge(there, 0.25)


@piece
def chained_arithmetic_is_learned(bench):
    from lessonlib.networks import small_transformer as small
    from lessonlib.training import fit

    network = small.arithmetician(16, layers=1).to(bench.device)
    for way in (small.with_chain, small.answer_only, small.filler_dots):
        targets = way(small.chained_arithmetic(8, steps=3, seed=0))
        fit(network, [targets] * 2, learning_rate=1e-3, loss=small.target_loss)
        small.share_right(network, targets.to(bench.device))
        small.spell(small.write_on(network, targets.to(bench.device))[0])


@piece
def a_vision_transformer_learns(bench):
    from lessonlib.lora import add_lora
    from lessonlib.networks import vision_transformer as vision
    from lessonlib.networks.mlp import score
    from lessonlib.training import fit

    images = _digits(bench)
    network = add_lora(vision.VisionTransformer(width=16, layers=1).to(bench.device), r=2)
    batches = vision.image_batches(vision.turned(_digits(bench)), steps=2)
    fit(network, batches, learning_rate=1e-3, loss=vision.image_loss)
    score(network, images)


# --- figures -------------------------------------------------------------------------------------------------------------------


@piece
def the_playground_trains_lora(bench):
    from lessonlib.figures.playground import Playground, Way
    from lessonlib.lora import add_lora

    load = lambda: (bench.base(), bench.tokenizer)  # noqa: E731
    Playground(load, {"LoRA": Way(lambda m, t: add_lora(m), 1e-3)}, bench.batches).run().still()


@piece
def the_playground_trains_everything(bench):
    from lessonlib.figures.playground import Playground, Way
    from lessonlib.training.master_weights import MasterAdamW

    load = lambda: (bench.base(), bench.tokenizer)  # noqa: E731
    ways = {"all": Way(lambda m, t: m.requires_grad_(True), 1e-4, MasterAdamW)}
    seen = Playground(load, ways, bench.batches).run().seen
    assert seen.held > 0


@piece
def figures_of_four_bits(bench):
    from lessonlib import figures
    from lessonlib.quantization.nf4 import CODEBOOK

    W = bench.base().model.layers[0].mlp.up_proj.weight.detach()
    figures.code_book(W, CODEBOOK.to(bench.device))
    figures.code_book(W, CODEBOOK)
    figures.bits_slider(W)
    figures.update_and_step(W, W.abs())


@piece
def figures_of_tickets(bench):
    from lessonlib import figures
    from lessonlib.corpora.digits import Images, mnist1d
    from lessonlib.networks.mlp import digit_network
    from lessonlib.pruning.lottery import Ticket
    from lessonlib.pruning.masks import full_masks, layerwise_masks, magnitudes

    images = mnist1d("train")
    figures.signals(Images(images.x[:200], images.y[:200]).to(bench.device))
    network = digit_network(40).to(bench.device)
    full = full_masks(network)
    half = layerwise_masks(magnitudes(network, full), full, dict.fromkeys(full, 0.5))
    start = {name: value.detach() for name, value in network.state_dict().items()}
    figures.sparsity_slider(start, [Ticket(full, 1), Ticket(half, 1)], {"ticket": [0.6, 0.5]}, "0.weight")


def main(dtype: str) -> dict:
    import torch

    torch.set_num_threads(1)
    bench, found = Bench(dtype), {}
    for name, function in PIECES.items():
        torch.manual_seed(0)
        try:
            function(bench)
            found[name] = None
        except Exception as error:
            places = traceback.extract_tb(error.__traceback__)
            lines = [
                f"{Path(p.filename).name}:{p.lineno} {p.line}" for p in places if "pretended.py" not in p.filename
            ]
            found[name] = "\n".join([f"{type(error).__name__}: {str(error)[:400]}", *lines[-7:]])
    return found


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):  # bars and lines of the library
        report = main(sys.argv[1])
    json.dump(report, sys.stdout)
