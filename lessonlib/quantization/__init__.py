"""Numbers in four bits: NF4, a linear layer that computes with it, QLoRA, and other formats."""
