"""BERT (Devlin et al. 2019) in transformers: post-LayerNorm, the pooler reads `[CLS]`."""

from attcat.model import TextAdapter


class BertAdapter(TextAdapter):
    family = "BERT"
    block_paths = ("bert.encoder.layer",)
