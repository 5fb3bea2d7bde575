"""Small models that work offline: two published encoders with a delta trained here each, and a whole one trained here."""
