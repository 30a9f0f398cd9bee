"""Claims of lessonlib.prompting. References: the full forward pass of transformers, one whole text at a time;
`transformers.generate`, one prompt at a time; scikit-learn's cosine; calibration by hand arithmetic."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from lessonlib.models import load_base
from lessonlib.prompting import (
    CONTENT_FREE,
    FewShotPrompt,
    PromptError,
    calibrate,
    complete,
    context_length,
    longest_common_prefix,
    score_labels,
    score_whole_texts,
    scoring,
    select_diverse,
    select_random,
    select_similar,
)
from lessonlib.prompting.soft_prompts import add_prefix, add_prompt

EXAMPLES = [("broken parcel", "refund"), ("late late", "delivery"), ("question", "not late at all")]
LABELS = ["refund", "delivery", "not late at all", "ref", "of no use"]
TEXTS = ["late", "thanks " * 9, "broken parcel", "", "billing " * 5, "refund", "where?", "delivery late " * 3]
close = torch.testing.assert_close


@pytest.fixture
def prompt():
    return FewShotPrompt(LABELS, EXAMPLES, instruction="Sort the tickets.")


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def one_by_one(model, tokenizer, prefix, queries, labels):
    """Each whole text alone, all logits; a label's tokens are those of the whole text beyond the context's."""
    rows = []
    for query in queries:
        for label in labels:
            begin = len(ids(tokenizer, prefix + query))
            whole = torch.tensor([ids(tokenizer, prefix + query + label)])
            with torch.no_grad():
                log_probs = model(whole).logits[0].log_softmax(-1)
            assert whole.shape[1] > begin
            rows.append(sum(log_probs[i - 1, whole[0, i]] for i in range(begin, whole.shape[1])))
    return torch.stack(rows).view(len(queries), len(labels))


def scored(model, tokenizer, prompt, **settings):
    return score_labels(model, tokenizer, prompt.prefix, [prompt.query(t) for t in TEXTS], prompt.endings, **settings)


def naive(model, tokenizer, prompt):
    return one_by_one(model, tokenizer, prompt.prefix, [prompt.query(t) for t in TEXTS], prompt.endings)


def gpt2(**_):
    torch.manual_seed(0)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 512, "n_positions": 128}
    return GPT2LMHeadModel(GPT2Config(**shape, initializer_range=0.1)).eval()


def mistral_with_a_window(**_):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    config = MistralConfig(**shape, **heads, sliding_window=8, initializer_range=0.05)
    return MistralForCausalLM(config).eval()


# --- the prompt ---------------------------------------------------------------------------------------------


def test_a_prompt_prints_as_the_model_reads_it():
    prompt = FewShotPrompt(["a", "b"], [("x {y}", "b")], "Sort.", template="In: {text}\nOut:", separator="\n--\n")
    assert str(prompt) == "Sort.\n--\nIn: x {y}\nOut: b\n--\nIn: {text}\nOut:"
    assert prompt.whole("{z}") == "Sort.\n--\nIn: x {y}\nOut: b\n--\nIn: {z}\nOut:"
    assert prompt.whole("q") == prompt.prefix + prompt.query("q") and prompt.endings == (" a", " b")


def test_braces_in_template_and_text_are_only_braces():
    prompt = FewShotPrompt(["a"], [("{y} {text}", "a")], template='{"in": "{text}", "out":')
    assert prompt.whole("{0}") == '{"in": "{y} {text}", "out": a\n\n{"in": "{0}", "out":'


def test_a_zero_shot_prompt_has_no_prefix():
    assert FewShotPrompt(["a"]).prefix == "" and FewShotPrompt(["a"], instruction="Do.").prefix == "Do.\n\n"


def test_a_prompt_is_pure(prompt):
    assert hash(prompt) == hash(dataclasses.replace(prompt, examples=list(prompt.examples)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        prompt.instruction = "other"


def test_tokens_are_those_of_the_longest_whole_text(tokenizer, prompt):
    whole = prompt.whole("late") + " not late at all"
    assert (
        prompt.tokens(tokenizer, "late")
        == len(ids(tokenizer, whole))
        == prompt.check_length(tokenizer, len(ids(tokenizer, whole)), ["", "late"])
    )


def test_a_prompt_that_does_not_fit_names_the_tokens_over(tokenizer, prompt):
    longest = prompt.tokens(tokenizer, "late")
    with pytest.raises(PromptError, match=rf"{longest} tokens, 7 more than the context of {longest - 7} .*these 3"):
        prompt.check_length(tokenizer, longest - 7, ["", "late"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": []}, r"labels is \[\]: give at least one"),
        ({"labels": "refund"}, "labels is 'refund'"),
        ({"labels": ["a", " "]}, "label ' ' is empty"),
        ({"labels": ["a", "b", "a"]}, "label 'a' stands twice"),
        ({"labels": ["a"], "examples": [("x", "b")]}, "example 'x' has the label 'b'; the labels are a"),
        ({"labels": ["a"], "template": "Ticket:"}, "must hold {text} once"),
        ({"labels": ["a"], "template": "{text}{text}"}, "must hold {text} once"),
    ],
)
def test_a_bad_prompt_is_refused_by_name(settings, message):
    with pytest.raises(PromptError, match=message):
        FewShotPrompt(**settings)


# --- scores equal the naive pass ----------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_scores_equal_the_naive_pass_at_any_batch_size(make_tiny, tokenizer, prompt, batch_size, attention):
    model = make_tiny(attn_implementation=attention)
    expected = naive(model, tokenizer, prompt)
    close(scored(model, tokenizer, prompt, batch_size=batch_size), expected, atol=1e-4, rtol=0)
    assert expected.std(dim=0).min() > 0.005  # the queries do differ


@pytest.mark.parametrize("make", [gpt2, mistral_with_a_window])
def test_scores_equal_the_naive_pass_for_other_kinds_of_model(make, tokenizer, prompt):
    model = make()
    close(scored(model, tokenizer, prompt), naive(model, tokenizer, prompt), atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_whole_texts_in_batches_equal_the_naive_pass(tiny, tokenizer, prompt, batch_size):
    queries = [prompt.query(t) for t in TEXTS]
    whole = score_whole_texts(tiny, tokenizer, prompt.prefix, queries, prompt.endings, batch_size=batch_size)
    close(whole, naive(tiny, tokenizer, prompt), atol=1e-4, rtol=0)


def test_scores_do_not_depend_on_how_the_tokenizer_would_pad(tiny, tokenizer, prompt):
    before, other = scored(tiny, tokenizer, prompt), copy.deepcopy(tokenizer)
    other.padding_side, other.pad_token = "left", None
    assert other.pad_token_id is None
    assert torch.equal(scored(tiny, other, prompt), before)


def test_many_label_tokens_are_scored_in_several_products(tiny, tokenizer, prompt, monkeypatch):
    monkeypatch.setattr(scoring, "HEAD_ROWS", 3)
    close(scored(tiny, tokenizer, prompt), naive(tiny, tokenizer, prompt), atol=1e-4, rtol=0)


@pytest.mark.parametrize("add", [add_prompt, add_prefix])
def test_scores_equal_the_naive_pass_behind_a_learned_prompt(tiny, tokenizer, prompt, add):
    before = scored(tiny, tokenizer, prompt)
    add(tiny, 5)
    close(scored(tiny, tokenizer, prompt), naive(tiny, tokenizer, prompt), atol=1e-4, rtol=0)
    assert (scored(tiny, tokenizer, prompt) - before).abs().max() > 0.01


@pytest.mark.parametrize(
    ("prefix", "queries"),
    [
        ("Ticket: late ", ["parcel\nTopic:", "billing\nTopic:"]),  # " parcel" is one token
        ("Ticket: late\nTop", ["ic:", "ic: refund\nTopic:"]),  # so is "Topic"
        ("", ["Ticket: late", "broken late", "Ticket: thanks"]),  # nothing is shared
        ("Ticket", [":", ": late"]),
    ],
)
def test_scores_equal_the_naive_pass_where_prefix_and_query_merge(tiny, tokenizer, prefix, queries):
    ours = score_labels(tiny, tokenizer, prefix, queries, [" refund", " not late"])
    close(ours, one_by_one(tiny, tokenizer, prefix, queries, [" refund", " not late"]), atol=1e-4, rtol=0)


def test_the_merges_above_are_merges(tokenizer):
    for prefix, query in (("Ticket: late ", "parcel"), ("Ticket: late\nTop", "ic:")):
        assert ids(tokenizer, prefix) + ids(tokenizer, query) != ids(tokenizer, prefix + query)


def test_only_the_tokens_that_all_texts_share_run_once(tiny, tokenizer, prompt, monkeypatch):
    calls, forward = [], tiny.model.forward
    monkeypatch.setattr(tiny.model, "forward", lambda **k: calls.append(k["input_ids"].shape) or forward(**k))
    queries = [prompt.query(t) for t in TEXTS]
    scored(tiny, tokenizer, prompt, batch_size=8)
    contexts = [ids(tokenizer, prompt.prefix + query) for query in queries]
    shared = longest_common_prefix(contexts)
    tails = sum(len(ids(tokenizer, label)) - 1 for label in prompt.endings)
    assert calls == [(1, shared), (8, max(map(len, contexts)) - shared + tails)]
    assert shared > 40


# --- where context and label merge --------------------------------------------------------------------------


def sum_from(model, whole, begin):
    with torch.no_grad():
        log_probs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(log_probs[i - 1, whole[i]] for i in range(begin, len(whole)))


def test_a_label_that_merges_with_the_context_is_scored_whole(tiny, tokenizer):
    # "Topic: " ends in a token of its own, " "; with "refund" it becomes " refund".
    context, whole = ids(tokenizer, "Topic: "), ids(tokenizer, "Topic: refund")
    assert len(context) == len(whole) and context[:-1] == whole[:-1]
    score = score_labels(tiny, tokenizer, "Topic: ", [""], ["refund"])
    close(score[0, 0], sum_from(tiny, whole, len(whole) - 1), atol=1e-5, rtol=0)


def test_labels_that_merge_and_labels_that_do_not_are_scored_from_one_place(tiny, tokenizer):
    merged, kept = ids(tokenizer, "Topic: refund"), ids(tokenizer, "Topic: \n")
    begin = len(ids(tokenizer, "Topic:"))
    assert kept[:begin] == merged[:begin] and len(kept) - begin == 2
    scores = score_labels(tiny, tokenizer, "Topic: ", [""], ["refund", "\n."])
    whole = ids(tokenizer, "Topic: \n.")
    close(scores[0], torch.stack([sum_from(tiny, w, begin) for w in (merged, whole)]), atol=1e-5, rtol=0)


# --- defined results and refusals ---------------------------------------------------------------------------


def test_a_label_whose_tokens_begin_anothers_never_scores_below_it(tiny, tokenizer):
    short, long = score_labels(tiny, tokenizer, "Topic:", ["", " late"], [" not late", " not late at all"]).T
    assert (short > long).all()


def test_an_empty_text_is_scored_in_its_template(tiny, tokenizer, prompt):
    query = prompt.query("")
    expected = one_by_one(tiny, tokenizer, prompt.prefix, [query], prompt.endings)
    close(score_labels(tiny, tokenizer, prompt.prefix, [query], prompt.endings), expected, atol=1e-4, rtol=0)


def test_no_queries_give_no_rows(tiny, tokenizer):
    assert score_labels(tiny, tokenizer, "Topic:", [], [" a", " b"]).shape == (0, 2)
    assert score_whole_texts(tiny, tokenizer, "Topic:", [], [" a", " b"]).shape == (0, 2)


@pytest.mark.parametrize("score", [score_labels, score_whole_texts])
@pytest.mark.parametrize(
    ("prefix", "queries", "labels", "message"),
    [
        ("Topic:", ["late"], [], r"labels is \[\]: give at least one"),
        ("Topic:", ["late"], " refund", "labels is ' refund'"),
        ("Topic:", ["late"], [" a", " b", " a"], "label ' a' stands twice"),
        ("Topic:", ["late"], [" a", ""], "label '' is empty"),
        ("Topic:", "late", [" a"], "queries is one string, 'late'"),
        ("", ["late", ""], [" a"], "query 1, '', has no token in front of its label"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(tiny, tokenizer, score, prefix, queries, labels, message):
    with pytest.raises(PromptError, match=message):
        score(tiny, tokenizer, prefix, queries, labels)


def test_a_text_over_the_context_is_refused_with_the_number_of_tokens(tiny, tokenizer):
    per_word = len(ids(tokenizer, " late")) and len(ids(tokenizer, " late" * 4)) / 4
    assert per_word == 1 and context_length(tiny) == 128
    fits = [" late" * (128 - len(ids(tokenizer, "Topic: refund")))]
    score_labels(tiny, tokenizer, "Topic:", fits, [" refund"])
    with pytest.raises(PromptError, match=r"query 1 .* has 131 tokens, 3 more than the model's context of 128"):
        score_labels(tiny, tokenizer, "Topic:", ["", fits[0] + " late" * 3], [" refund"])


def test_dropout_plays_no_part_in_a_score(make_tiny, tokenizer, prompt):
    model = make_tiny(attention_dropout=0.5)
    expected = naive(model, tokenizer, prompt)
    close(scored(model.train(), tokenizer, prompt), expected, atol=1e-4, rtol=0)


def test_scoring_leaves_the_model_as_it_was(tiny, tokenizer, prompt):
    tiny.train()
    scores = scored(tiny, tokenizer, prompt)
    assert tiny.training and all(p.requires_grad for p in tiny.parameters())
    assert not scores.requires_grad and scores.dtype == torch.float32


def test_progress_counts_the_queries(tiny, tokenizer, prompt):
    for score in (score_labels, score_whole_texts):
        done = []
        queries = [prompt.query(t) for t in TEXTS]
        score(tiny, tokenizer, prompt.prefix, queries, prompt.endings, batch_size=3, progress=done.append)
        assert len(done) > 2 and sum(done) == pytest.approx(8)


@pytest.mark.model
def test_the_real_models_scores_equal_the_naive_pass():
    model, tokenizer = load_base(dtype=torch.float32)
    shots = [("The box never came.", "delivery"), ("I was charged twice!", "billing")]
    prompt = FewShotPrompt(["delivery", "billing", "product question"], shots)
    assert ids(tokenizer, prompt.prefix)[-1] not in ids(tokenizer, prompt.whole(""))  # "\n\n" does not survive
    queries = [prompt.query(text) for text in ("Where is my order?", "Does the lamp dim?", "")]
    ours = score_labels(model, tokenizer, prompt.prefix, queries, prompt.endings)
    close(ours, one_by_one(model, tokenizer, prompt.prefix, queries, prompt.endings), atol=1e-4, rtol=0)


# --- calibration --------------------------------------------------------------------------------------------


def test_calibration_is_division_by_what_content_free_inputs_get():
    # By hand: p_cf = mean of (.9, .1) and (.7, .3) = (.8, .2); (.6 / .8, .4 / .2) = (.75, 2), of 2.75 in all.
    content_free = torch.tensor([[0.9, 0.1], [0.7, 0.3]]).log()
    q = calibrate(torch.tensor([[0.6, 0.4]]).log(), content_free).exp()
    close(q, torch.tensor([[0.75 / 2.75, 2 / 2.75]]))


def test_calibration_gives_the_papers_argmax():
    generator = torch.Generator().manual_seed(0)
    log_probs, content_free = torch.randn(50, 4, generator=generator), torch.randn(3, 4, generator=generator)
    p, p_cf = log_probs.softmax(-1), content_free.softmax(-1).mean(0)
    W = torch.diag(1 / p_cf)
    expected = (p @ W.T).softmax(-1).argmax(-1)
    assert torch.equal(calibrate(log_probs, content_free).argmax(-1), expected)
    assert not torch.equal(log_probs.argmax(-1), expected)


def test_a_content_free_input_is_left_without_a_favourite(tiny, tokenizer, prompt):
    queries = [prompt.query(text) for text in CONTENT_FREE]
    free = score_labels(tiny, tokenizer, prompt.prefix, queries, prompt.endings)
    close(calibrate(free[:1], free[0]).exp(), torch.full((1, 5), 0.2))


def test_calibration_does_not_care_how_log_probs_are_normalized():
    log_probs, free = torch.randn(5, 3) - 40, torch.randn(2, 3) - 40
    close(
        calibrate(log_probs, free),
        calibrate(log_probs.log_softmax(-1) + 7, free + torch.tensor([[3.0], [-9.0]])),
    )


@pytest.mark.parametrize(
    ("log_probs", "content_free", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(1, 3), r"\(3, 2\) and content_free \(1, 3\) do not fit"),
        (torch.zeros(3, 2), torch.zeros(0, 2), "at least one row"),
        (torch.zeros(3, 2), torch.tensor([[0.0, -torch.inf]]), "infinite or NaN"),
        (torch.tensor([[0.0, torch.nan]]), torch.zeros(1, 2), "infinite or NaN"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(log_probs, content_free, message):
    with pytest.raises(PromptError, match=message):
        calibrate(log_probs, content_free)


# --- choosing examples --------------------------------------------------------------------------------------

POOL = [
    "late parcel",
    "parcel lost",
    "wrong bill",
    "bill twice",
    "lamp broken",
    "broken screen",
    "parcel late",
]


def test_random_choices_are_distinct_and_follow_the_seed():
    draws = [tuple(select_random(POOL, 4, seed)) for seed in range(200)]
    assert draws[0] == tuple(select_random(POOL, 4, 0)) and len(set(draws)) > 100
    assert all(len(set(draw)) == 4 for draw in draws)
    assert np.bincount(np.ravel(draws), minlength=7).min() > 80  # of 114 expected


def test_similar_choices_are_the_nearest_by_cosine_the_nearest_last():
    queries = ["the parcel is late", "my bill", "screen broken"]
    vectorizer = TfidfVectorizer(sublinear_tf=True).fit(POOL)
    cosines = cosine_similarity(vectorizer.transform(queries), vectorizer.transform(POOL))
    for chosen, row in zip(select_similar(POOL, queries, 3), cosines, strict=True):
        assert row[chosen].tolist() == sorted(row)[-3:] and len(set(chosen)) == 3
    assert select_similar(POOL, ["wrong bill"], 2)[0][-1] == 2


def test_diverse_choices_take_one_of_each_cluster():
    chosen = select_diverse(POOL, 3, vectors=lambda texts: clusters(texts))
    assert {topic(POOL[row]) for row in chosen} == {"parcel", "bill", "broken"}
    assert chosen == select_diverse(POOL, 3, vectors=lambda texts: clusters(texts))


def topic(text):
    return next(word for word in ("parcel", "bill", "broken") if word in text)


def clusters(texts):
    """Three far points, one a topic, and within each a little apart."""
    centres = {"parcel": (1, 0, 0), "bill": (0, 1, 0), "broken": (0, 0, 1)}
    return np.array([np.array(centres[topic(text)]) + i / 100 for i, text in enumerate(texts)])


@pytest.mark.parametrize("k", [1, 4, 7])
def test_diverse_choices_are_k_distinct_rows_even_of_equal_texts(k):
    assert len(set(select_diverse(POOL, k))) == k
    assert len(set(select_diverse(["same text"] * 5 + ["other"], 3))) == 3


def test_a_k_that_cannot_be_chosen_is_refused():
    for choose in (select_random, select_diverse, lambda texts, k: select_similar(texts, ["late"], k)):
        for k in (-1, 8):
            with pytest.raises(PromptError, match=f"k is {k}; there are 7 texts"):
                choose(POOL, k)
    assert select_random(POOL, 0) == [] == select_diverse(POOL, 0)
    assert select_similar(POOL, ["late", "bill"], 0) == [[], []] and select_similar(POOL, [], 3) == []


# --- completing prompts -------------------------------------------------------------------------------------

PROMPTS = ["late parcel", "thanks thanks thanks thanks", "Ticket: broken\nTopic:", "refund", "A B C"]


@pytest.fixture
def writer(make_tiny, tokenizer):
    """A tiny model all of whose tokens are text to the tokenizer, and that never ends by itself."""
    model = make_tiny(seed=1, vocab_size=len(tokenizer))
    model.generation_config.eos_token_id = None
    return model


def text_of(tokenizer, tokens):
    return tokenizer.decode(tokens, skip_special_tokens=True)


def without_cache(model, tokenizer, prompt, steps):
    """The tokens that greedy decoding gives when every step runs the whole text anew."""
    tokens = ids(tokenizer, prompt)
    for _ in range(steps):
        with torch.no_grad():
            tokens.append(model(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax().item())
    return tokens[-steps:]


def alone(model, tokenizer, prompt, **settings):
    tokens = torch.tensor([ids(tokenizer, prompt)])
    written = model.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, **settings)
    return text_of(tokenizer, written[0, tokens.shape[1] :])


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_completions_in_batches_equal_transformers_generate_alone(writer, tokenizer, batch_size):
    expected = [alone(writer, tokenizer, prompt, max_new_tokens=12, pad_token_id=0) for prompt in PROMPTS]
    assert complete(writer, tokenizer, PROMPTS, 12, batch_size=batch_size) == expected
    assert len(set(expected)) > 3


@pytest.mark.parametrize("add", [lambda model, tokens: model, add_prompt, add_prefix])
def test_completions_equal_greedy_decoding_without_a_cache(writer, tokenizer, add):
    torch.manual_seed(3)
    add(writer, 5)
    expected = [text_of(tokenizer, without_cache(writer, tokenizer, prompt, 8)) for prompt in PROMPTS]
    assert complete(writer, tokenizer, PROMPTS, 8, batch_size=3) == expected
    assert len(set(expected)) > 3


def test_a_completion_ends_before_the_first_stop_string(writer, tokenizer):
    free = complete(writer, tokenizer, PROMPTS, 12)
    stop = [free[0][6:8], free[0][3:5], free[1][5]]
    cut = [text[: min(text.find(s) if s in text else 99 for s in stop)] for text in free]
    assert complete(writer, tokenizer, PROMPTS, 12, stop) == cut != free
    assert cut[0] == free[0][: free[0].index(stop[1])] and len(cut[0]) <= 3


def test_a_stop_string_in_the_prompt_stops_nothing(writer, tokenizer):
    free = complete(writer, tokenizer, ["late parcel"], 12)
    assert complete(writer, tokenizer, ["late parcel"], 12, ["late parcel"]) == free


def test_a_stop_string_saves_the_rest_of_the_work(writer, tokenizer, monkeypatch):
    first = complete(writer, tokenizer, PROMPTS[2:3], 1)[0]
    calls, forward = [], writer.model.forward
    monkeypatch.setattr(writer.model, "forward", lambda **k: calls.append(1) or forward(**k))
    assert first == "*" and complete(writer, tokenizer, PROMPTS[2:3], 20, [first]) == [""]
    assert len(calls) == 1


def test_a_completion_ends_at_the_end_of_text_token(writer, tokenizer):
    tokens = without_cache(writer, tokenizer, "refund", 8)
    place = next(i for i in range(1, 8) if tokens[i] not in tokens[:i])
    writer.generation_config.eos_token_id = tokens[place]
    together = complete(writer, tokenizer, [*PROMPTS, "refund"], 8)
    assert together[-1] == together[3] == text_of(tokenizer, tokens[: place + 1])


def test_sampling_settings_go_to_generate(writer, tokenizer):
    torch.manual_seed(0)
    sampled = complete(writer, tokenizer, ["refund"] * 8, 6, do_sample=True, temperature=2.0)
    assert len(set(sampled)) > 4


def test_prompts_that_cannot_be_completed_are_refused(tiny, tokenizer):
    with pytest.raises(PromptError, match="prompt 1 is empty"):
        complete(tiny, tokenizer, ["late", ""])
    with pytest.raises(PromptError, match=r"prompt 0 has 100 tokens, with 30 new ones 2 more than .* context of 128"):
        complete(tiny, tokenizer, [" late" * 100], 30)
    assert complete(tiny, tokenizer, []) == []
