"""RoBERTa (Liu et al. 2019) in transformers: BERT's blocks, byte-level BPE, the head reads `<s>`."""

from .bert import BertAdapter


class RobertaAdapter(BertAdapter):
    family = "RoBERTa"
    block_paths = ("roberta.encoder.layer",)
    positions_lost = 2  # positions are counted from padding_idx + 1 = 2
