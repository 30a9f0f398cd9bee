"""LoRA whose A and B are shared by all layers of the model (after Tied-LoRA: Renduchintala et al., 2023, arXiv:2311.09578).

    h_l = W_l x + (alpha / r) B A x        one A and one B for the query projections of all layers l, one for the values, …

As many times fewer parameters as the model has layers. The paper's variants that add trained vectors for each layer
are left out.
"""

from torch import nn

from .layer import LoRAError, lora_layers


def tie_lora(model: nn.Module) -> nn.Module:
    """Let all LoRA layers of one name ("q_proj") share the A and B of the first. Returns the same model.

    Call it right after `add_lora`: the pairs of the other layers are dropped. `merge_lora`, `remove_lora` and the
    optimizer need not know. Raises LoRAError for a model without LoRA, one that is merged, pairs of one name that
    differ in shape or scale, and pairs that were trained already; the model is then unchanged.

    >>> from lessonlib.lora import add_lora
    >>> model = nn.ModuleList(nn.ModuleDict({"q_proj": nn.Linear(8, 8)}) for _ in range(30))
    >>> tied = tie_lora(add_lora(model, ["q_proj"], r=2))
    >>> sum(p.numel() for p in tied.parameters() if p.requires_grad)
    32
    """
    names = {}
    for path, layer in lora_layers(model):
        names.setdefault(path.rpartition(".")[2], []).append((path, layer))
    if not names:
        raise LoRAError("this model has no LoRA layers: call add_lora(model, ...) first")
    for layers in names.values():
        for path, layer in layers:
            _refuse(model, path, layer, layers[0][1])
    for (_, first), *others in names.values():
        for _, layer in others:
            layer.A, layer.B = first.A, first.B
    return model


def _refuse(model: nn.Module, path: str, layer: nn.Module, first: nn.Module) -> None:
    if model.get_submodule(path) is not layer:
        raise LoRAError(f"{path} is merged: call unmerge_lora(model) before tying")
    mine, theirs = ((tuple(one.A.shape), tuple(one.B.shape), one.scale) for one in (layer, first))
    if mine != theirs:
        raise LoRAError(
            f"{path} has A, B and scale {mine}, the first layer of its name {theirs}: only equal ones can be tied"
        )
    if layer.B.any():
        raise LoRAError(f"{path}.B is trained already and would be lost: tie right after add_lora")
