"""DeiT (Touvron et al. 2021) in transformers: ViT with a distillation token, which `...WithTeacher` reads as well."""

from torch import Tensor

from attcat.model import Encoding

from .vit import ViTAdapter


class DeiTAdapter(ViTAdapter):
    family = "DeiT"
    block_paths = ("deit.layers", "deit.encoder.layer")
    prefix = ("[CLS]", "[DIST]")

    def read(self, encoding: Encoding) -> Tensor:
        """The class token; with a teacher's head, which averages two classifiers, the distillation token too."""
        read = encoding.mask.clone()
        read[:, 2 if hasattr(self.model, "distillation_classifier") else 1 :] = False
        return read
