"""Adapters for the families that AttCAT knows: one short file each, installed as `attcat.adapters`."""

if __name__ == "adapters":
    raise ImportError("this folder is installed as attcat.adapters: the bare name belongs to another project")
