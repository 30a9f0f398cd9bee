"""A tiny model of the base model's kind, its training, a tiny tokenizer, and both as a GGUF file."""

import lessonlib  # noqa: F401  first of all: whoever imports transformers before it is not offline

# isort: split
import json

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lessonlib.lora import add_lora, lora_layers
from lessonlib.lora.deltas import deltas_of
from lessonlib.training import fit

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
WORDS = (
    "billing delivery refund technical account positive negative question feedback late broken parcel thanks A B C D"
)


def tiny_model(seed: int = 0, **changes) -> LlamaForCausalLM:
    """Two Llama layers in float32 with 4 query and 2 key-value heads, the same weights for the same seed.

    Weights are wider than Llama's own start, so that an update moves the logits by far more than rounding does.
    """
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    rest = {"initializer_range": 0.05, "tie_word_embeddings": False, "attn_implementation": "eager"}
    config = LlamaConfig(**(shape | heads | rest | changes))
    torch.manual_seed(seed)
    return LlamaForCausalLM(config).eval()


def filled(model):
    """The model with an update in each LoRA layer that moves the logits well beyond rounding."""
    generator = torch.Generator().manual_seed(1)
    for _, layer in lora_layers(model):
        layer.B.data = 0.05 * torch.randn(layer.B.shape, generator=generator)
    return model


def logits(model, tokens):
    with torch.no_grad():
        return model(tokens).logits


def random_adapter(model, seed, r=4, alpha=8.0, targets=ALL):
    """An adapter in memory that moves the logits well beyond rounding."""
    generator = torch.Generator().manual_seed(seed)
    adapter = deltas_of(add_lora(model, targets, r, alpha))
    return {path: u._replace(B=0.05 * torch.randn(u.B.shape, generator=generator)) for path, u in adapter.items()}


def served(bank, rows, tokens):
    """The logits that a bank gives for these rows' adapters."""
    with bank.using(rows) as model:
        return logits(model, tokens)


def bits(model):
    """All that a refused call must leave as it was: modules, values, and what trains."""
    modules = [(path, type(module)) for path, module in model.named_modules()]
    values = [(name, p.requires_grad, p.detach().clone().view(torch.uint8)) for name, p in model.named_parameters()]
    return modules, values


def same(before, after):
    assert before[0] == after[0]
    assert len(before[1]) == len(after[1])
    for (name, trains, value), (name_after, trains_after, value_after) in zip(before[1], after[1], strict=True):
        assert (name, trains) == (name_after, trains_after)
        assert torch.equal(value, value_after), name


def train(model, tokens, steps=3):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(steps):
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


class Tokens:
    """A batch of token numbers for a tiny model."""

    def __init__(self, ids):
        self.ids = ids

    def to(self, device):
        return Tokens(self.ids.to(device))


def next_token_loss(model, batch):
    logits = model(batch.ids).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), batch.ids[:, 1:].flatten())


def six_steps(model) -> list[float]:
    """The losses of training a tiny model's free parameters for six steps, on the same random tokens every time."""
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(0, model.config.vocab_size, (2, 8), generator=generator) for _ in range(6)]
    return fit(model, list(map(Tokens, ids)), learning_rate=1e-2, loss=next_token_loss).losses


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, trained here on a few words; " refund" is one token, as in a real one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=["<pad>", "<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([f"Ticket: {word} {WORDS}\nTopic: {word}" for word in WORDS.split()], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def write_gguf(path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Model and tokenizer as one GGUF file in float32, as llama.cpp's converter writes a Llama."""
    c, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    tokens += [f"<unused{i}>" for i in range(len(tokens), c.vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * (c.vocab_size - 2))
    writer.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    writer.add_bos_token_id(1)  # transformers 5.9 asks for one
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, c.num_hidden_layers)
    heads = {"q_proj": c.num_attention_heads, "k_proj": c.num_key_value_heads}
    for name, weight in model.state_dict().items():
        rows = weight.numpy()
        if (part := name.split(".")[-2]) in heads:  # llama.cpp interleaves the halves that rotate together
            rows = rows.reshape(heads[part], 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(rows))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
