"""BERT (Devlin et al. 2019) in transformers: post-LayerNorm, the pooler reads `[CLS]`."""

from attcat.model import TextAdapter


class BertAdapter(TextAdapter):
    family = "BERT"
    block_paths = ("bert.encoder.layer",)

    @property
    def causal(self) -> bool:  # type: ignore[override]
        """A decoder sees only what was before."""
        return bool(self.model.config.is_decoder)  # type: ignore[union-attr]
