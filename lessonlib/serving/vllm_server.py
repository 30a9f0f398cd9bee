"""Starts vLLM's server with a fault of it mended. Run as a file, by the Python of the serving environment.

On a CPU, vLLM 0.32 gathers the matrices of each token's adapter by the place where they lie, and a token that wants none
has the place -1: which is, to an index, the last one. So a request to the base that shares a batch with others is
answered by whatever adapter lies in the last place, without a word. (Its CUDA kernels skip such tokens. Pull requests
48421 and 49656 to vLLM mend it; 0.32 has neither.) Here what A makes of such a token is set to zero, and B then adds
nothing.

Found by asking for log-probabilities in a mixed batch and comparing them with PEFT's: the text alone looked fine.
"""

import contextlib
import runpy


def mend() -> None:
    """Make vLLM's CPU products skip tokens without an adapter; where there is no vLLM, nothing."""
    with contextlib.suppress(ImportError):
        from vllm.lora.ops import torch_ops
        from vllm.lora.ops.torch_ops import lora_ops

        shrink = lora_ops.bgmv_shrink

        def bgmv_shrink(inputs, lora_a, output, places, scaling=1.0):
            shrink(inputs, lora_a, output, places, scaling)
            output[places < 0] = 0

        lora_ops.bgmv_shrink = torch_ops.bgmv_shrink = bgmv_shrink


mend()  # when imported, too: the processes that vLLM spawns import this file again, and they compute

if __name__ == "__main__":
    # Not `vllm serve`: the CPU build's command looks for a package of another name and ends.
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
