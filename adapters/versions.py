"""The oldest and newest versions of the model libraries that the family tests ran with; others are reported once."""

TESTED = {"transformers": ("4.53.3", "5.23.0"), "timm": ("1.0.20", "1.0.31")}

transformers = TESTED["transformers"]
timm = TESTED["timm"]
