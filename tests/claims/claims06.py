"""Evidence for the claims on adapters (notebook 06)."""

from evidence import claim
from tiny_models import tiny_model

from lessonlib.adapters import adapter_layers, add_adapters
from lessonlib.corpora.published import architectures
from lessonlib.costs import Adapters, PrefixTuning, PromptTuning, architecture
from lessonlib.evaluation import paired_difference
from lessonlib.runs import load_runs

GPT3, BERT = architecture("gpt3-175b"), architecture("bert-large")
M = 64
GPT3_ADAPTERS = 2 * GPT3.layers * 2 * GPT3.d * M  # two a layer, without biases
PCIE = 25e9  # bytes a second


@claim("C091")
def prompts_and_prefixes_train():
    return min(method.trainable(GPT3) for method in (PromptTuning(100), PrefixTuning(100))) > 0


@claim("C094")
def adapters_of_a_layer():
    paths = [path for path, _ in adapter_layers(add_adapters(tiny_model(), m=4))]
    return sum("layers.0." in path for path in paths)


@claim("C095")
def frozen_matrices_of_a_layer():
    return sum(matrix.d_out * matrix.d_in for matrix in BERT.linears) / BERT.layers / BERT.d**2


@claim("C096")
def berts_adapters():
    return 2 * BERT.layers * 2 * BERT.d * M


@claim("C097")
def gpt3s_adapters_in_per_cent():
    with_biases = Adapters(M).trainable(GPT3)
    assert 0 < with_biases / GPT3_ADAPTERS - 1 < 0.01
    return 100 * GPT3_ADAPTERS / 175e9


@claim("C099")
def too_high_a_learning_rate_leaves_the_baseline():
    (base,), (wild,) = load_runs("no_adapter", task="intent"), load_runs("houlsby", m=M, learning_rate=3e-2)
    return max(wild.results["losses"][:10]) > 5 * base.results["test_loss"]


@claim("C100")
def only_a_large_start_ruins_the_outputs():
    small, large = (load_runs("houlsby_started", std=std)[0] for std in (0.01, 1.0))
    _, low, _ = paired_difference(small.answers(), large.answers())
    (base,) = load_runs("no_adapter", task="intent")
    _, above, _ = paired_difference(small.answers(), base.answers())
    return low > 0.2 and above > 0.2


@claim("C101")
def berts_adapters_in_per_cent():
    size = 1e6 * float(architectures()["bert-large"]["published"].removesuffix("M"))
    return 100 * 2 * BERT.layers * 2 * BERT.d * M / size


@claim("C105")
def gpt3s_adapters_in_megabytes():
    return 2 * GPT3_ADAPTERS / 1e6


@claim("C106")
def full_copies_in_gigabytes():
    return 26 * 2 * 175e9 / 1e9


@claim("C107")
def a_swap_takes_milliseconds():
    return [round(1000 * size / PCIE) for size in (25e6, 2 * GPT3_ADAPTERS)] == [1, 24]


@claim("C108")
def adapters_in_gpt3():
    return 2 * GPT3.layers
