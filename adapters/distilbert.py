"""DistilBERT (Sanh et al. 2019) in transformers: BERT's blocks without token types, the head reads `[CLS]`."""

from attcat.model import TextAdapter


class DistilBertAdapter(TextAdapter):
    family = "DistilBERT"
    block_paths = ("distilbert.transformer.layer",)
    causal = False
    ignored_arguments = ("token_type_ids",)
