"""A real vLLM server, started, called and stopped from Python: one base and many LoRA adapters, each under its name.

vLLM (Kwon et al., 2023, arXiv:2309.06180) has an environment of its own, which `make serve-env` builds, and speaks
OpenAI's HTTP protocol. So all that is said to it here could be said from another machine, in another language.
"""

import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from lessonlib import hardware
from lessonlib.display import Bar

from .admission import (
    BASE,
    CONFIG,
    WEIGHTS,
    EngineError,
    check_directory,
    check_files,
    check_name,
    linear_shapes,
)
from .label_scoring import label_log_probs
from .server import HOST, KV_CACHE_GB, STAGES, EngineAbsent, Server, environment, serving_python

PROGRAM_GB = 3.0  # of vLLM's three processes, without weights and cache
REQUEST_SECONDS = 120
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the limits that vLLM knows


class Reply(str):
    """What the model wrote, a string; `tokens` how many, `model` who wrote it, `ended` why ("stop" or "length")."""

    tokens: int
    model: str
    ended: str


class Engine:
    """A vLLM server over one base model, from `start` to `stop` or within a `with` block.

    model_directory: as `save_pretrained` writes it, with its tokenizer; it is served under the name "base".
    adapters: name -> directory in PEFT's format; more can come and go while it runs.
    max_loras: adapters that one batch can mix. max_cpu_loras: adapters kept in memory (None: as many); when others
        are asked for, the least recently used are dropped and read again later. max_lora_rank: the largest r.
    max_model_len: tokens of a prompt and its answer. max_num_seqs: requests computed together.
    adapter_directory: the only place that adapters may come from (None: any).
    startup_seconds: how long to wait for it. dtype: of the base's weights. port: None takes a free one.

    Raises EngineAbsent without vLLM, and EngineError, from every method, with the reason: for a bad name or adapter,
    too little memory, a port in use, a server that ends, and whatever the server itself refuses.

    >>> with Engine(find_base(), {"billing": "adapters/billing"}) as engine:  # doctest: +SKIP
    ...     engine.complete("billing", "Ticket: I was charged twice.\\nTopic:", max_tokens=1)
    ' billing'
    """

    def __init__(
        self,
        model_directory: str | Path,
        adapters: dict[str, str | Path] | None = None,
        *,
        max_loras: int = 4,
        max_cpu_loras: int | None = None,
        max_lora_rank: int = 16,
        max_model_len: int = 512,
        max_num_seqs: int = 16,
        adapter_directory: str | Path | None = None,
        startup_seconds: float = 240,
        dtype: str = "bfloat16",
        port: int | None = None,
    ):
        self.model_directory = Path(model_directory).resolve()
        if not (self.model_directory / "config.json").is_file():
            raise EngineError(f"{model_directory} has no config.json: give the directory that save_pretrained wrote")
        _refuse_limits(max_loras, max_cpu_loras, max_lora_rank)
        self.max_lora_rank, self.adapter_directory = max_lora_rank, adapter_directory
        self.startup_seconds = startup_seconds
        self.settings = {
            "model": self.model_directory,
            "served-model-name": BASE,
            "dtype": dtype,
            "max-model-len": max_model_len,
            "max-num-seqs": max_num_seqs,
            "max-loras": max_loras,
            "max-cpu-loras": max_cpu_loras or max_loras,
            "max-lora-rank": next(rank for rank in RANKS if rank >= max_lora_rank),
            "gpu-memory-utilization": 0.5,  # the notebook's own model may be on the same GPU
        }
        self.adapters = {name: self._admitted(name, directory) for name, directory in (adapters or {}).items()}
        self._room = Path(tempfile.mkdtemp(prefix="lessonlib-engine-"))  # the log, and copies of the adapters
        weakref.finalize(self, shutil.rmtree, self._room, ignore_errors=True)
        self.server, self._client, self._tokenizer = Server(self._room, port), None, None

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self) -> "Engine":
        """Start the server, wait until it answers, and load the adapters. Returns itself."""
        if self.server.running:
            raise EngineError(f"this engine runs already, at {self.url}: call restart() to start it anew")
        self._refuse_little_memory()
        began, bar = time.monotonic(), Bar(total=len(STAGES), desc="Starting vLLM")
        try:
            progress = lambda reached: bar.update(max(0, reached - bar.n))  # noqa: E731
            self.server.start(self.settings, self.environment(), self.startup_seconds, progress)
            for name, directory in self.adapters.items():
                self._send_adapter(name, directory)
            names = ", ".join(self.models())
        except BaseException:  # an interrupt of the kernel too leaves no server behind
            self.stop()
            bar.close()
            raise
        bar.finish(f"vLLM serves {names} at {self.url} (ready in {time.monotonic() - began:.0f} s)")
        return self

    def stop(self) -> None:
        """End the server and all its processes. Nothing happens where none runs."""
        if self._client is not None:
            self._client.close()
        self._client = None
        self.server.stop()

    def restart(self) -> "Engine":
        """Stop what runs, or ran, and start it again with the adapters that were loaded last, at the same address."""
        self.stop()
        return self.start()

    def __enter__(self) -> "Engine":
        return self.start()

    def __exit__(self, *error) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether the server runs and does not say that it is ill; one too busy to answer within seconds is alive."""
        return self.server.alive

    @property
    def url(self) -> str:
        """The address for any OpenAI client (its base_url)."""
        return f"http://{HOST}:{self.server.port}/v1"

    @property
    def log(self) -> Path:
        """The file with all that the server has said."""
        return self.server.log

    @property
    def client(self):
        """An `openai.OpenAI` client of this server: it waits a bounded time and never tries twice by itself."""
        if self.server.port is None:
            raise EngineError("this engine does not run: call start()")
        if self._client is None:
            import openai

            self._client = openai.OpenAI(
                base_url=self.url,
                api_key="none",
                max_retries=0,
                timeout=openai.Timeout(REQUEST_SECONDS, connect=5),
                http_client=openai.DefaultHttpxClient(trust_env=False),  # no proxy between us and the loopback
            )
        return self._client

    def environment(self) -> dict[str, str]:
        """The environment variables that the server gets."""
        return environment()

    # --- adapters ----------------------------------------------------------------------------------------------------

    def models(self) -> list[str]:
        """The names that can be asked: "base" and the adapters."""
        return [model.id for model in self._ask(lambda client: client.models.list()).data]

    def load(self, name: str, directory: str | Path) -> None:
        """Load one more adapter while the server runs, and serve it under this name."""
        directory = self._admitted(name, directory)
        self._send_adapter(name, directory)
        self.adapters[name] = directory

    def unload(self, name: str) -> None:
        """Drop an adapter: requests that have begun are answered, later ones for this name are refused."""
        check_name(name)
        self._ask(lambda client: client.post("/unload_lora_adapter", body={"lora_name": name}, cast_to=str))
        self.adapters.pop(name, None)

    def _admitted(self, name: str, directory: str | Path) -> Path:
        check_name(name)
        directory = check_directory(directory, self.adapter_directory)
        check_files(directory, linear_shapes(self.model_directory), self.max_lora_rank)
        return directory

    def _send_adapter(self, name: str, directory: Path) -> None:
        # vLLM reads an adapter's files again whenever it has dropped it from memory, and takes cached keys and values
        # for valid as long as name and path are the same. So each load gets a copy of the files, at a new path.
        copy = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._room))
        for file in (CONFIG, WEIGHTS):
            shutil.copyfile(directory / file, copy / file)
        body = {"lora_name": name, "lora_path": str(copy)}
        self._ask(lambda client: client.post("/load_lora_adapter", body=body, cast_to=str))

    # --- requests ----------------------------------------------------------------------------------------------------

    def complete(self, model: str, prompt: str, **arguments) -> Reply:
        """What `model` ("base" or an adapter's name) writes behind the prompt, as a `Reply`.

        arguments: those of OpenAI's completions (max_tokens, stop, temperature, ...). Greedy unless they say otherwise,
        and no special token is added to the prompt.
        """
        arguments = {"temperature": 0.0} | arguments
        arguments["extra_body"] = {"add_special_tokens": False} | (arguments.get("extra_body") or {})
        answer = self._ask(lambda client: client.completions.create(model=model, prompt=prompt, **arguments))
        reply = Reply(answer.choices[0].text)
        reply.model, reply.tokens = answer.model, answer.usage.completion_tokens
        reply.ended = answer.choices[0].finish_reason
        return reply

    def label_log_probs(self, model: str, prompts: Sequence[str], labels: Sequence[str]) -> torch.Tensor:
        """Summed log-probability of each label behind each prompt, (prompts, labels), as `score_labels` has them.

        A label brings its own space (" refund"). `label_questions` says what the server is asked.
        """
        return label_log_probs(partial(self._next_token, model), self.tokenizer, prompts, labels)

    @property
    def tokenizer(self):
        """The base's tokenizer, as transformers reads it."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(self.model_directory)
        return self._tokenizer

    def _next_token(self, model: str, contexts: Sequence, tokens: Sequence[int]) -> list[dict[int, float]]:
        answer = self._ask(
            lambda client: client.completions.create(
                model=model,
                prompt=[list(context) for context in contexts],
                max_tokens=1,
                logprobs=len(tokens),
                extra_body={"logprob_token_ids": list(tokens), "return_tokens_as_token_ids": True},
            )
        )
        ordered = sorted(answer.choices, key=lambda choice: choice.index)
        rows = [choice.logprobs.top_logprobs[0] for choice in ordered]
        return [{token: row[f"token_id:{token}"] for token in tokens} for row in rows]

    def _ask(self, call: Callable):
        """What the call gets from the server, or EngineError in the server's own words."""
        client = self.client
        import openai

        try:
            return call(client)
        except openai.APITimeoutError as cause:
            raise EngineError(
                f"no answer from {self.url} in time (a request gets {REQUEST_SECONDS} s): ask for less at once, or call "
                "restart()"
            ) from cause
        except openai.APIConnectionError as cause:
            raise EngineError(
                f"the server at {self.url} does not answer ({cause.__cause__ or cause}): call restart(). Its last "
                f"words:\n{self.server.last_words()}"
            ) from cause
        except openai.APIStatusError as cause:
            said = cause.body.get("message", cause.body) if isinstance(cause.body, dict) else cause.response.text
            ill = "" if cause.status_code < 500 or self.alive else ", and is no longer well: call restart()"
            raise EngineError(f"the server refused this ({cause.status_code}){ill}: {said}") from cause

    def _refuse_little_memory(self) -> None:
        if hardware.device().type == "cuda":
            return  # vLLM itself says what is missing there
        weights = sum(path.stat().st_size for path in self.model_directory.glob("*.safetensors")) / 1e9
        needed, free = PROGRAM_GB + KV_CACHE_GB + weights, hardware.memory_gb(torch.device("cpu"))
        if free < needed:
            raise EngineError(
                f"{free:.1f} GB of memory are free and vLLM needs {needed:.1f} here: shut other kernels down, or serve on "
                "a machine with more memory"
            )


def _refuse_limits(max_loras: int, max_cpu_loras: int | None, max_lora_rank: int) -> None:
    if not 1 <= max_lora_rank <= RANKS[-1]:
        raise EngineError(f"max_lora_rank is {max_lora_rank}; expected 1 to {RANKS[-1]}")
    if max_cpu_loras is not None and max_cpu_loras < max_loras:
        raise EngineError(f"max_cpu_loras is {max_cpu_loras}; expected at least max_loras, {max_loras}")


__all__ = ["BASE", "Engine", "EngineAbsent", "EngineError", "Reply", "serving_python"]
