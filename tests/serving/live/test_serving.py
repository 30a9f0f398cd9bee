"""What must hold of a real vLLM server. References: PEFT's log-probabilities, our own score_labels, the server's words."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import psutil
import pytest
import torch
from peft import PeftModel
from served_models import NAMES, adapted, base_model

from lessonlib.lora import save_lora
from lessonlib.prompting import score_labels
from lessonlib.serving.engine import EngineError
from lessonlib.serving.traffic import lru_hits, offer, zipf

PROMPTS = ["Ticket: I was charged twice.\nTopic:", "Ticket: where is my parcel?\nTopic:"]
LABELS = [" refund", " delivery", " product question", " praise or complaint"]  # of one token, and of several
BFLOAT16 = 0.25  # summed log-probabilities of up to three tokens differ by less between bfloat16 and float32
BOUNDED = 30  # seconds in which an error must come


def refused(engine, code: int):
    """The engine refuses with this HTTP status, and serves on."""
    return pytest.raises(EngineError, match=rf"refused this \({code}\)")


def serves(engine) -> bool:
    return len(engine.complete("base", "Ticket:", max_tokens=2)) > 0 and engine.alive


# --- the right answers -----------------------------------------------------------------------------------------------


def test_the_server_names_the_base_and_its_adapters(engine):
    assert engine.models() == ["base", *NAMES[:2]]


@pytest.mark.parametrize("name", ["base", *NAMES[:2]])
def test_log_probabilities_are_pefts(engine, place, name):
    model = base_model()
    if name != "base":
        model = PeftModel.from_pretrained(model, place / name).merge_and_unload()
    expected = score_labels(model.eval(), engine.tokenizer, "", PROMPTS, LABELS)
    found = engine.label_log_probs(name, PROMPTS, LABELS)
    torch.testing.assert_close(found, expected, atol=BFLOAT16, rtol=0)


def test_the_adapters_are_further_apart_than_the_tolerance(engine):
    scores = torch.stack([engine.label_log_probs(name, PROMPTS, LABELS) for name in ("base", *NAMES[:2])])
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (scores[i] - scores[j]).abs().amax() > 4 * BFLOAT16


def test_each_answer_is_the_asked_ones_whatever_shares_its_batch_the_base_too(engine):
    # vLLM 0.32 on a CPU lets the adapter in the last place answer for the base: see lessonlib.serving.vllm_server.
    names = ("base", *NAMES[:2])
    alone = {name: engine.label_log_probs(name, PROMPTS, LABELS) for name in names}
    requests = [(names[i % 3], i % 2) for i in range(96)]
    load = offer(lambda name, i: engine.label_log_probs(name, [PROMPTS[i]], LABELS)[0], requests, clients=16)
    assert not load.failures
    for answer, (name, i) in zip(load.answers, requests, strict=True):
        torch.testing.assert_close(answer.result, alone[name][i], atol=BFLOAT16, rtol=0)


def test_a_reply_says_how_many_tokens_it_has_and_why_it_ended(engine):
    reply = engine.complete("billing", PROMPTS[0], max_tokens=5)
    assert (reply.tokens, reply.ended, reply.model) == (5, "length", "billing")
    assert engine.tokenizer(reply).input_ids  # a string as any other
    assert engine.complete("billing", PROMPTS[0], max_tokens=5) == reply  # greedy


def test_a_prompt_without_a_token_before_its_labels_is_refused(engine):
    with pytest.raises(EngineError, match="no token in front"):
        engine.label_log_probs("base", [""], LABELS)


def test_it_listens_on_the_loopback_only(engine):
    ports = [
        c.laddr.ip
        for p in psutil.Process(engine.server._process.pid).children(recursive=True)
        for c in p.net_connections("inet")
        if c.status == psutil.CONN_LISTEN
    ]
    assert ports and set(ports) <= {"127.0.0.1", "::1"}


# --- adapters come and go --------------------------------------------------------------------------------------------


def test_an_adapter_is_loaded_served_and_unloaded_while_the_server_runs(engine, place):
    engine.load("delivery", place / "delivery")
    assert engine.complete("delivery", PROMPTS[0], max_tokens=2).model == "delivery"
    engine.unload("delivery")
    with refused(engine, 404):
        engine.complete("delivery", PROMPTS[0])


def test_other_weights_under_an_old_name_answer_at_once_long_prompts_too(engine, place):
    # vLLM keeps keys and values of whole blocks of 128 tokens, and knows them by the adapter's name and path.
    prompt = ["Ticket: " + "my parcel is late " * 45 + "\nTopic:"]
    answers = []
    for name in ("delivery", "refunds"):
        engine.load("newest", place / name)
        answers.append(engine.label_log_probs("newest", prompt, LABELS))
        engine.unload("newest")
    torch.testing.assert_close(answers[1], engine.label_log_probs("refunds", prompt, LABELS), atol=0.05, rtol=0)
    assert (answers[0] - answers[1]).abs().amax() > BFLOAT16


def test_a_directory_that_is_overwritten_does_not_change_what_is_served(engine, place, tmp_path):
    copy = shutil.copytree(place / "delivery", place / "changing")
    engine.load("changing", copy)
    before = engine.label_log_probs("changing", PROMPTS, LABELS)
    shutil.rmtree(copy)
    for name in NAMES[:2]:  # these push it out of memory
        engine.complete(name, PROMPTS[0], max_tokens=1)
    engine.load("delivery", place / "delivery")
    torch.testing.assert_close(engine.label_log_probs("changing", PROMPTS, LABELS), before, atol=0.05, rtol=0)


def test_adapters_come_and_go_while_sixteen_clients_call_and_no_other_request_fails(engine, place):
    calling = threading.Event()
    requests = [(("base", *NAMES)[i % 4], PROMPTS[i % 2]) for i in range(160)]
    engine.load("delivery", place / "delivery")

    def call(name, prompt):
        calling.set()
        return engine.complete(name, prompt, max_tokens=4)

    def come_and_go():
        calling.wait(BOUNDED)
        for i in range(4):
            engine.load(f"visitor-{i}", place / "refunds")
            if i == 1:
                engine.unload("delivery")
            engine.unload(f"visitor-{i}")

    other = threading.Thread(target=come_and_go)
    other.start()
    load = offer(call, requests, clients=16)
    other.join()
    assert {answer.name for answer in load.failures} == {"delivery"}
    assert all("refused this (404)" in str(answer.error) for answer in load.failures)
    answered = [answer for answer in load.answers if answer.error is None]
    assert all(answer.result.model == answer.name and answer.result.tokens for answer in answered)


def test_a_name_that_is_taken_is_refused_and_the_first_adapter_stays(engine, place):
    before = engine.label_log_probs("billing", PROMPTS, LABELS)
    with refused(engine, 400):
        engine.load("billing", place / "delivery")
    torch.testing.assert_close(engine.label_log_probs("billing", PROMPTS, LABELS), before, atol=0.05, rtol=0)


def test_unloading_what_was_never_there_is_refused(engine):
    with refused(engine, 404):
        engine.unload("nobody")


def test_the_server_reads_and_places_adapters_as_a_least_recently_used_memory_does(engine, place):
    names = [f"customer-{i}" for i in range(5)]
    for name in names:
        engine.load(name, place / "refunds")
    before, trace = engine.swaps(), [names[i] for i in zipf(5, 40, seed=0)]
    for name in trace:
        engine.complete(name, PROMPTS[0], max_tokens=1)
    misses = {k: lru_hits([*names, *trace], k)[len(names) :].count(False) for k in (2, 3)}
    assert engine.swaps() - before == {"placed": misses[2], "read": misses[3]}  # max_loras, max_cpu_loras
    assert 0 < misses[3] < misses[2] < len(trace)


# --- adapters that must not be served: refused by us, and by the server if it is asked past us ---------------------


def broken(directory):
    (directory / "adapter_model.safetensors").write_bytes(b"not a tensor")


def too_large(directory):
    save_lora(adapted(7, r=16), directory)


def of_another_base(directory):
    save_lora(adapted(7, hidden_size=64), directory)


@pytest.mark.parametrize("spoil", [broken, too_large, of_another_base])
def test_a_bad_adapter_is_refused_and_the_server_lives_on(engine, place, tmp_path, spoil):
    directory = shutil.copytree(place / "billing", place / f"bad-{spoil.__name__}")
    spoil(directory)
    with pytest.raises(EngineError):
        engine.load("bad", directory)
    assert "bad" not in engine.models() and serves(engine)


@pytest.mark.parametrize("spoil", [broken, too_large])
def test_the_server_itself_refuses_it_too(engine, place, tmp_path, spoil):
    directory = shutil.copytree(place / "billing", tmp_path / "bad")
    spoil(directory)
    with refused(engine, 500):
        engine._send_adapter("bad", directory)
    assert "bad" not in engine.models() and serves(engine)


def test_the_server_itself_takes_an_adapter_of_a_narrower_base_which_is_why_we_look(engine, place, tmp_path):
    directory = shutil.copytree(place / "billing", tmp_path / "narrow")
    of_another_base(directory)
    engine._send_adapter("narrow", directory)  # its matrices fit into vLLM's buffers, and are served
    assert "narrow" in engine.models() and engine.complete("narrow", PROMPTS[0], max_tokens=2).tokens == 2


@pytest.mark.parametrize("directory", ["/etc", "../.."])
def test_a_directory_outside_is_never_sent(engine, directory):
    with pytest.raises(EngineError, match="not below"):
        engine.load("sneaky", directory)


# --- requests that are refused ---------------------------------------------------------------------------------------


def test_a_prompt_longer_than_the_context_is_refused(engine):
    with refused(engine, 400):
        engine.complete("base", "word " * 300)


def test_an_unknown_model_is_refused_by_name(engine):
    with pytest.raises(EngineError, match=r"404.*nobody"):
        engine.complete("nobody", PROMPTS[0])


def test_more_stops_than_the_protocol_allows_are_refused(engine):
    assert engine.complete("base", PROMPTS[0], stop=["a", "b", "c", "d"], max_tokens=2) is not None
    with refused(engine, 400):
        engine.complete("base", PROMPTS[0], stop=["a", "b", "c", "d", "e"])


@pytest.mark.parametrize("body", [b"{not json", b"[]", json.dumps({"model": "base", "prompt": {"a": 1}}).encode()])
def test_bad_json_is_refused(engine, body):
    request = urllib.request.Request(f"{engine.url}/completions", body, {"Content-Type": "application/json"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError) as error:
        direct.open(request, timeout=BOUNDED)
    assert error.value.code in (400, 422) and serves(engine)


# --- the end ---------------------------------------------------------------------------------------------------------

ASKER = """
import sys, time
from lessonlib.serving.engine import Engine
engine = Engine(sys.argv[1], startup_seconds=600)
engine.start()
print("READY", engine.server._process.pid, flush=True)
time.sleep(600)
"""


def test_a_killed_server_is_a_clear_error_soon_and_restart_brings_it_back(engine):
    before, address = engine.label_log_probs("billing", PROMPTS, LABELS), engine.url
    watchdog = psutil.Process(engine.server._process.pid)
    family = watchdog.children(recursive=True)
    waiting = []

    def long_request():
        began = time.monotonic()
        with pytest.raises(EngineError, match=r"does not answer.*restart\(\)"):
            for _ in range(1000):
                engine.complete("base", PROMPTS[0], max_tokens=150, extra_body={"ignore_eos": True})
        waiting.append(time.monotonic() - began)

    client = threading.Thread(target=long_request)
    client.start()
    time.sleep(0.5)
    family[0].send_signal(signal.SIGKILL)
    client.join(BOUNDED)
    assert waiting and waiting[0] < BOUNDED
    assert not engine.alive
    with pytest.raises(EngineError, match="does not answer"):
        engine.complete("base", PROMPTS[0])
    psutil.wait_procs([watchdog, *family], BOUNDED)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family)
    engine.restart()
    assert (engine.models(), engine.url) == (["base", *NAMES[:2]], address)
    torch.testing.assert_close(engine.label_log_probs("billing", PROMPTS, LABELS), before, atol=0.05, rtol=0)


def test_no_process_is_left_when_the_kernel_is_killed(served_base):
    asker = subprocess.Popen(
        [sys.executable, "-c", ASKER, str(served_base)],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    line = next(line for line in asker.stdout if line.startswith("READY"))
    watchdog = psutil.Process(int(line.split()[1]))
    family = [watchdog, *watchdog.children(recursive=True)]
    assert len(family) >= 3  # watchdog, HTTP server, engine
    asker.kill()
    asker.wait()
    psutil.wait_procs(family, BOUNDED)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family)
