"""Claims of lessonlib.serving.label_scoring. Reference: score_labels on the same model; the "server" here is that model."""

import pytest
import torch

from lessonlib.prompting import score_labels
from lessonlib.serving.admission import EngineError
from lessonlib.serving.label_scoring import PROMPTS_AT_ONCE, TOKENS_AT_ONCE, label_log_probs, label_tokens

PROMPTS = ["Ticket: billing late\nTopic:", "Ticket: broken parcel\nTopic:", "Ticket: billing late\nTopic:"]
LABELS = [
    " refund",
    " delivery broken",
    " refund late",
    " xyz",
]  # one begins another; one is spelled out in letters


class Server:
    """A model that tells next tokens only, and counts what it was asked."""

    def __init__(self, model):
        self.model, self.asked = model, []

    @torch.no_grad()
    def __call__(self, contexts, tokens):
        self.asked.append((len(contexts), len(tokens)))
        rows = [self.model(torch.tensor([list(c)])).logits[0, -1].log_softmax(-1) for c in contexts]
        return [{token: row[token].item() for token in tokens} for row in rows]


def test_sums_of_next_tokens_are_score_labels(tiny, tokenizer):
    found = label_log_probs(Server(tiny), tokenizer, PROMPTS, LABELS)
    expected = score_labels(tiny, tokenizer, "", PROMPTS, LABELS)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_where_tokens_merge_at_the_joint_those_of_the_whole_text_count(tiny, tokenizer):
    prompts, labels = ["Topic: refu"], ["nd", "x"]  # " refund" is one token, " refu" is not a part of it
    assert (
        tokenizer(prompts[0], add_special_tokens=False).input_ids[-1]
        != label_tokens(tokenizer, prompts[0], labels)[0][-1]
    )
    expected = score_labels(tiny, tokenizer, "", prompts, labels)
    torch.testing.assert_close(label_log_probs(Server(tiny), tokenizer, prompts, labels), expected, atol=1e-4, rtol=0)


def test_labels_of_one_token_are_one_question_a_prompt_and_equal_prompts_are_asked_once(tiny, tokenizer):
    server = Server(tiny)
    label_log_probs(server, tokenizer, PROMPTS, [" refund", " delivery", " late"])
    assert server.asked == [(2, 3)]


def test_questions_go_in_portions(tiny, tokenizer):
    server = Server(tiny)
    many = [f"Ticket: {i}\nTopic:" for i in range(PROMPTS_AT_ONCE + 3)]
    found = label_log_probs(server, tokenizer, many, [" refund", " late"])
    assert [n for n, _ in server.asked] == [PROMPTS_AT_ONCE, 3]
    torch.testing.assert_close(
        found, score_labels(tiny, tokenizer, "", many, [" refund", " late"]), atol=1e-4, rtol=0
    )


def test_more_tokens_than_a_request_takes_are_asked_for_in_turns(tiny, tokenizer):
    alphabet = [chr(c) for c in range(33, 127)] + [chr(c) for c in range(161, 256)]
    server, labels = Server(tiny), alphabet[: TOKENS_AT_ONCE + 20]
    found = label_log_probs(server, tokenizer, ["Topic: "], labels)
    assert max(tokens for _, tokens in server.asked) <= TOKENS_AT_ONCE < sum(tokens for _, tokens in server.asked)
    torch.testing.assert_close(found, score_labels(tiny, tokenizer, "", ["Topic: "], labels), atol=1e-4, rtol=0)


def test_no_prompts_give_no_rows(tiny, tokenizer):
    assert label_log_probs(Server(tiny), tokenizer, [], LABELS).shape == (0, len(LABELS))


@pytest.mark.parametrize("labels", [[], " refund", [" refund", ""]])
def test_labels_that_cannot_be_scored_are_refused(tiny, tokenizer, labels):
    with pytest.raises(EngineError, match="labels is"):
        label_log_probs(Server(tiny), tokenizer, PROMPTS, labels)


def test_a_prompt_without_a_token_is_refused(tiny, tokenizer):
    with pytest.raises(EngineError, match="no token in front"):
        label_log_probs(Server(tiny), tokenizer, [""], LABELS)
