"""Claims of lessonlib.models.writing. References: transformers' own `generate`, one prompt at a time; and for samples,
`generate` on the batches that are described, under the same seed."""

import itertools

import pytest
import torch

from lessonlib.models.writing import (
    Completion,
    PromptError,
    PromptTooLong,
    complete,
    completions,
    eval_mode,
    generate_tokens,
)
from lessonlib.reasoning import sample_chains

PROMPTS = ["late parcel", "thanks thanks thanks thanks", "Ticket: broken\nTopic:", "refund", "A B C", "D\n"]
NEW = 12


@pytest.fixture
def writer(make_tiny, tokenizer):
    """A tiny model all of whose tokens the tokenizer knows, and that does not come to its end in these tests."""
    model = make_tiny(seed=1, vocab_size=len(tokenizer))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def alone(model, pieces, prompt, **settings):
    """What `generate` puts behind one prompt, tokens and text, without a batch and without padding."""
    tokens = torch.tensor([ids(pieces, prompt)])
    settings = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0} | settings
    out = model.generate(tokens, attention_mask=torch.ones_like(tokens), **settings)
    new = out[0, tokens.shape[1] :].tolist()
    return new, pieces.decode(new, skip_special_tokens=True)


def cut(text, stop):
    return text[: min((text.find(string) for string in stop if string in text), default=len(text))]


@pytest.fixture
def stops(writer, tokenizer):
    """Strings that the model does write: one that ends within a token, one over two tokens, one that is a token."""
    new, text = alone(writer, tokenizer, PROMPTS[2])
    tokens = [tokenizer.decode([token]) for token in new]
    inside = next(token[1:-1] for token in tokens if len(token) > 3)
    joint = next(a[-1] + b[0] for a, b in itertools.pairwise(tokens) if (a[-1] + b[0]).isascii())
    assert inside in text and joint in text
    return {
        "within a token": [inside],
        "over a joint": [joint],
        "several": ["never", joint, inside, tokens[-1]],
    }


@pytest.mark.parametrize("batch_size", [1, 2, 4, 16])
@pytest.mark.parametrize("kind", ["within a token", "over a joint", "several"])
def test_texts_are_those_of_generate_alone_up_to_the_first_stop_string(writer, tokenizer, stops, kind, batch_size):
    stop = stops[kind]
    expected = []
    for prompt in PROMPTS:
        tokens, text = alone(writer, tokenizer, prompt, stop_strings=stop, tokenizer=tokenizer)
        expected.append(Completion(cut(text, stop), len(tokens), cut(text, stop) != text))
    assert completions(writer, tokenizer, PROMPTS, NEW, stop, batch_size=batch_size) == expected
    assert complete(writer, tokenizer, PROMPTS, NEW, stop, batch_size=batch_size) == [c.text for c in expected]
    assert {c.ended for c in expected} == {True, False}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_text_ends_before_the_end_of_text_token(writer, tokenizer, batch_size):
    free = [alone(writer, tokenizer, prompt)[0] for prompt in PROMPTS]
    end = free[2][4]
    whole = completions(writer, tokenizer, PROMPTS, NEW, batch_size=batch_size, eos_token_id=end)
    lengths = [tokens.index(end) if end in tokens else NEW for tokens in free]
    assert [c.tokens for c in whole] == lengths and [c.ended for c in whole] == [n < NEW for n in lengths]
    assert len(set(lengths)) > 1
    # Some token that is text stands for the end here, so that it is read as text.
    assert [c.text for c in whole] == [
        tokenizer.decode(tokens[: n + 1], skip_special_tokens=True) for tokens, n in zip(free, lengths)
    ]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_what_stands_behind_a_shared_prefix_is_what_stands_behind_the_whole(writer, tokenizer, batch_size):
    prefix = "Ticket: late parcel\nTopic: delivery\n\n"
    whole = completions(writer, tokenizer, [prefix + prompt for prompt in PROMPTS], NEW, ["\n\n"])
    assert completions(writer, tokenizer, PROMPTS, NEW, ["\n\n"], prefix=prefix, batch_size=batch_size) == whole


@pytest.mark.parametrize("batch_size", [2, 4, 16])
def test_samples_are_drawn_in_batches_of_like_length_the_shortest_first(writer, tokenizer, batch_size):
    many = [prompt for prompt in PROMPTS for _ in range(3)]
    order = sorted(range(len(many)), key=lambda row: len(ids(tokenizer, many[row])))
    expected = {}
    torch.manual_seed(7)
    for i in range(0, len(order), batch_size):
        rows = order[i : i + batch_size]
        batch = tokenizer.pad(
            {"input_ids": [ids(tokenizer, many[row]) for row in rows]},
            padding_side="left",
            return_tensors="pt",
        )
        out = writer.generate(
            **batch, do_sample=True, temperature=1.5, top_k=0, top_p=1.0, max_new_tokens=8, pad_token_id=0,
            eos_token_id=[0, 1],
        )  # fmt: skip
        new = out[:, batch.input_ids.shape[1] :]
        expected |= zip(rows, tokenizer.batch_decode(new, skip_special_tokens=True))
    chains = sample_chains(
        writer,
        tokenizer,
        PROMPTS,
        3,
        temperature=1.5,
        seed=7,
        max_new_tokens=8,
        stop=(),
        batch_size=batch_size,
    )
    assert [chain.text for row in chains for chain in row] == [expected[row] for row in range(len(many))]


def test_a_stop_string_that_begins_in_the_prompt_stops_as_in_generate(writer, tokenizer):
    [first], text = alone(writer, tokenizer, PROMPTS[2], max_new_tokens=1)
    stop = [":" + text]
    assert alone(writer, tokenizer, PROMPTS[2], stop_strings=stop, tokenizer=tokenizer)[0] == [first]
    assert completions(writer, tokenizer, PROMPTS[2:3], NEW, stop) == [Completion(text, 1, True)]


def test_tokens_are_padded_behind_the_end_of_their_row(writer, tokenizer):
    free = [alone(writer, tokenizer, prompt)[0] for prompt in PROMPTS]
    end = free[2][4]
    new = generate_tokens(
        writer, [ids(tokenizer, p) for p in PROMPTS], pad_token_id=0, eos_token_id=end, max_new_tokens=NEW
    )
    for tokens, row in zip(new, free, strict=True):
        length = row.index(end) + 1 if end in row else NEW
        assert tokens[:length] == row[:length] and not any(tokens[length:])


def test_prompts_are_refused_before_anything_is_written(writer, tokenizer):
    with pytest.raises(PromptError, match="prompt 1 is empty"):
        complete(writer, tokenizer, ["late", ""], prefix="Ticket:")
    with pytest.raises(PromptTooLong, match=r"prompt 1 has 101 tokens, with 30 new ones 3 more than"):
        complete(writer, tokenizer, ["late", " late" * 100], 30, prefix="A")
    assert completions(writer, tokenizer, []) == []


def test_a_model_in_training_writes_as_in_evaluation_and_trains_on(make_tiny, tokenizer):
    model = make_tiny(attention_dropout=0.5)
    expected = complete(model, tokenizer, PROMPTS)
    assert complete(model.train(), tokenizer, PROMPTS) == expected and model.training
    with eval_mode(model):
        assert not model.training
